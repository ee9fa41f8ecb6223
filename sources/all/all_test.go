package all

import "testing"

// Each kind makes a config of its own that names its connector and refuses to be empty.
func TestKinds(t *testing.T) {
	connectors := map[string]string{}
	for kind, newConfig := range Kinds {
		c := newConfig()
		if c == newConfig() {
			t.Errorf("%s: two captures would share one config", kind)
		}
		if c.Connector() == "" {
			t.Errorf("%s: Connector is empty", kind)
		}
		if other, ok := connectors[c.Connector()]; ok {
			t.Errorf("%s and %s have one connector, %s", kind, other, c.Connector())
		}
		connectors[c.Connector()] = kind
		if c.Validate() == nil {
			t.Errorf("%s: an empty config is taken", kind)
		}
	}
}
