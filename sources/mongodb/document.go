package mongodb

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"go.mongodb.org/mongo-driver/v2/bson"

	"weft/sources"
	"weft/sources/mongodb/extjson"
)

// appendValue appends a BSON value as JSON. One that has none is an *extjson.InvalidError, or with InvalidBase64 its BSON.
func appendValue(dst []byte, w *extjson.Writer, v extjson.Value, invalid Invalid) ([]byte, error) {
	out, err := w.AppendValue(dst, v)
	if err == nil || invalid != InvalidBase64 {
		return out, err
	}
	dst = append(out[:len(dst)], invalidHead...)
	dst = base64.StdEncoding.AppendEncode(append(dst, `{"base64":"`...), v.Data)
	dst = strconv.AppendUint(append(dst, `","type":`...), uint64(v.Type), 10)
	return append(dst, "}}"...), nil
}

// invalidHead begins a value that is carried as its BSON. The server takes no _id whose first field has such a name, so that
// nothing else begins so.
const invalidHead = `{"$invalidBSON":`

// parseValue reads what appendValue has written, in either form.
func parseValue(text []byte) (bson.RawValue, error) {
	if bytes.HasPrefix(text, []byte(invalidHead)) {
		var v struct {
			Invalid struct {
				Base64 []byte `json:"base64"`
				Type   byte   `json:"type"`
			} `json:"$invalidBSON"`
		}
		if err := json.Unmarshal(text, &v); err != nil {
			return bson.RawValue{}, fmt.Errorf("read a value: %w", err)
		}
		return bson.RawValue{Type: bson.Type(v.Invalid.Type), Value: v.Invalid.Base64}, nil
	}
	doc := append(append([]byte(`{"v":`), text...), '}')
	var raw bson.Raw
	if err := bson.UnmarshalExtJSON(doc, false, &raw); err != nil {
		return bson.RawValue{}, fmt.Errorf("read a value: %w", err)
	}
	return raw.LookupErr("v")
}

// refused names a document that has no Extended JSON.
func refused(where string, id extjson.Value, invalid error) error {
	text, err := (&extjson.Writer{}).AppendValue(nil, id)
	if err != nil {
		text = []byte("unreadable")
	}
	return sources.Fatal("set invalid_documents: base64, which carries such a document as its BSON, and correct it at the source",
		"the document of %s with _id %s has no JSON: %w", where, text, invalid)
}
