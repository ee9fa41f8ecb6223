package sources

import (
	"bytes"
	"slices"
)

// LastPosition remembers the position that was decoded last, for Reader.AppendOrder: that is asked for row after row of one position,
// and reading its JSON costs more than encoding a row. Its zero value is ready. It is for one goroutine.
type LastPosition[P any] struct {
	text    Position
	decoded P
}

// Decode returns what decode makes of a position. It is valid until the next call, and not to be changed.
func (l *LastPosition[P]) Decode(text Position, decode func(Position) (P, error)) (*P, error) {
	if l.text == nil || !bytes.Equal(text, l.text) {
		p, err := decode(text)
		if err != nil {
			return nil, err
		}
		l.decoded, l.text = p, slices.Clone(text)
	}
	return &l.decoded, nil
}
