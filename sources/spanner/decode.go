package spanner

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/spanner"
	"cloud.google.com/go/spanner/apiv1/spannerpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// record is one record of a change stream: exactly one of its members is set.
type record struct {
	data      *dataRecord
	heartbeat stamp
	children  []child
}

// dataRecord is a data change record: mods of one table by one transaction in one partition.
type dataRecord struct {
	id       recordID
	sequence string // as the server wrote it
	table    string
	columns  []recordColumn
	mods     []recordMod
	modType  string // INSERT, UPDATE or DELETE
	capture  string // value capture type

	last                bool // in the transaction and partition
	system              bool
	records, partitions int64 // of the transaction
	tag                 string
}

type recordColumn struct {
	name    string
	typ     columnType
	key     bool
	ordinal int64
}

// columnType is Spanner's description of a type, which both dialects give as the same JSON.
type columnType struct {
	Code       string      `json:"code"`
	Annotation string      `json:"type_annotation"`
	Elem       *columnType `json:"array_element_type"`
}

// recordMod holds the values of one row, each as a JSON object by column name.
type recordMod struct{ keys, newValues, oldValues []byte }

// maxColumns bounds what a record may list; Spanner's own bound of a table's columns is 1024.
const maxColumns = 4096

// errMutableKeyRange is that of a stream whose records this source does not read.
var errMutableKeyRange = errors.New("the change stream has partition mode MUTABLE_KEY_RANGE, whose partition start, end and event records are not read")

// decodeGoogleSQL reads the column ChangeRecord of a row, an array of STRUCT. Members are found by name, and those that are
// not known are left out, so that a server may add some.
func decodeGoogleSQL(v spanner.GenericColumnValue) ([]record, error) {
	var out []record
	err := eachStruct(v.Type, v.Value, func(f *spannerpb.StructType_Field, v *structpb.Value) error {
		switch f.Name {
		case "data_change_record":
			return eachElement(f.Type, v, func(t *spannerpb.Type, v *structpb.Value) error {
				r, err := decodeData(t, v)
				out = append(out, record{data: r})
				return err
			})
		case "heartbeat_record":
			return eachElement(f.Type, v, func(t *spannerpb.Type, v *structpb.Value) error {
				var r record
				err := members(t, v, func(name string, _ *spannerpb.Type, v *structpb.Value) (err error) {
					if name == "timestamp" {
						r.heartbeat, err = parseStamp(v.GetStringValue())
					}
					return err
				})
				out = append(out, r)
				return err
			})
		case "child_partitions_record":
			return eachElement(f.Type, v, func(t *spannerpb.Type, v *structpb.Value) error {
				children, err := decodeChildren(t, v)
				out = append(out, record{children: children})
				return err
			})
		case "partition_start_record", "partition_end_record", "partition_event_record":
			if len(v.GetListValue().GetValues()) > 0 {
				return errMutableKeyRange
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("decode change record: %w", err)
	}
	return out, check(out)
}

// eachStruct calls f with the members of each STRUCT of an array.
func eachStruct(t *spannerpb.Type, v *structpb.Value, f func(*spannerpb.StructType_Field, *structpb.Value) error) error {
	return eachElement(t, v, func(t *spannerpb.Type, v *structpb.Value) error {
		fields, values := t.GetStructType().GetFields(), v.GetListValue().GetValues()
		if len(fields) != len(values) || len(fields) == 0 {
			return fmt.Errorf("a STRUCT has %d values for %d members", len(values), len(fields))
		}
		for i, field := range fields {
			if err := f(field, values[i]); err != nil {
				return fmt.Errorf("%s: %w", field.Name, err)
			}
		}
		return nil
	})
}

// eachElement calls f with each element of an array, of which a null has none.
func eachElement(t *spannerpb.Type, v *structpb.Value, f func(*spannerpb.Type, *structpb.Value) error) error {
	if t.GetCode() != spannerpb.TypeCode_ARRAY {
		return fmt.Errorf("it is of type %s, not an ARRAY", t.GetCode())
	}
	for _, one := range v.GetListValue().GetValues() {
		if err := f(t.GetArrayElementType(), one); err != nil {
			return err
		}
	}
	return nil
}

// members calls f with the members of one STRUCT.
func members(t *spannerpb.Type, v *structpb.Value, f func(name string, t *spannerpb.Type, v *structpb.Value) error) error {
	fields, values := t.GetStructType().GetFields(), v.GetListValue().GetValues()
	if len(fields) != len(values) || len(fields) == 0 {
		return fmt.Errorf("a STRUCT has %d values for %d members", len(values), len(fields))
	}
	for i, field := range fields {
		if err := f(field.Name, field.Type, values[i]); err != nil {
			return fmt.Errorf("%s: %w", field.Name, err)
		}
	}
	return nil
}

func decodeData(t *spannerpb.Type, v *structpb.Value) (*dataRecord, error) {
	r := &dataRecord{}
	err := members(t, v, func(name string, t *spannerpb.Type, v *structpb.Value) (err error) {
		switch name {
		case "commit_timestamp":
			r.id.at, err = parseStamp(v.GetStringValue())
		case "record_sequence":
			r.sequence = v.GetStringValue()
			r.id.seq, err = parseSequence(r.sequence)
		case "server_transaction_id":
			r.id.tx = v.GetStringValue()
		case "is_last_record_in_transaction_in_partition":
			r.last = v.GetBoolValue()
		case "table_name":
			r.table = v.GetStringValue()
		case "value_capture_type":
			r.capture = v.GetStringValue()
		case "mod_type":
			r.modType = v.GetStringValue()
		case "number_of_records_in_transaction":
			r.records, err = parseInt(v.GetStringValue())
		case "number_of_partitions_in_transaction":
			r.partitions, err = parseInt(v.GetStringValue())
		case "transaction_tag":
			r.tag = v.GetStringValue()
		case "is_system_transaction":
			r.system = v.GetBoolValue()
		case "column_types":
			err = eachElement(t, v, func(t *spannerpb.Type, v *structpb.Value) error {
				c, err := decodeColumn(t, v)
				r.columns = append(r.columns, c)
				return err
			})
		case "mods":
			r.mods = make([]recordMod, 0, len(v.GetListValue().GetValues()))
			err = eachElement(t, v, func(t *spannerpb.Type, v *structpb.Value) error {
				var m recordMod
				err := members(t, v, func(name string, _ *spannerpb.Type, v *structpb.Value) error {
					switch name {
					case "keys":
						m.keys = []byte(v.GetStringValue())
					case "new_values":
						m.newValues = []byte(v.GetStringValue())
					case "old_values":
						m.oldValues = []byte(v.GetStringValue())
					}
					return nil
				})
				r.mods = append(r.mods, m)
				return err
			})
		}
		return err
	})
	return r, err
}

func decodeColumn(t *spannerpb.Type, v *structpb.Value) (c recordColumn, err error) {
	err = members(t, v, func(name string, _ *spannerpb.Type, v *structpb.Value) (err error) {
		switch name {
		case "name":
			c.name = v.GetStringValue()
		case "type":
			c.typ, err = parseType(v.GetStringValue())
		case "is_primary_key":
			c.key = v.GetBoolValue()
		case "ordinal_position":
			c.ordinal, err = parseInt(v.GetStringValue())
		}
		return err
	})
	return c, err
}

// parseType reads a column's type. Most are {"code":"STRING"}, for which a JSON decoder would be most of a record's cost.
func parseType(s string) (t columnType, err error) {
	if code, ok := strings.CutPrefix(s, `{"code":"`); ok {
		if code, ok := strings.CutSuffix(code, `"}`); ok && !strings.ContainsAny(code, `"\\`) {
			return columnType{Code: code}, nil
		}
	}
	err = json.Unmarshal([]byte(s), &t)
	return t, err
}

func decodeChildren(t *spannerpb.Type, v *structpb.Value) ([]child, error) {
	var start stamp
	var out []child
	err := members(t, v, func(name string, t *spannerpb.Type, v *structpb.Value) (err error) {
		switch name {
		case "start_timestamp":
			start, err = parseStamp(v.GetStringValue())
		case "child_partitions":
			err = eachElement(t, v, func(t *spannerpb.Type, v *structpb.Value) error {
				var c child
				err := members(t, v, func(name string, _ *spannerpb.Type, v *structpb.Value) error {
					switch name {
					case "token":
						c.token = v.GetStringValue()
					case "parent_partition_tokens":
						for _, p := range v.GetListValue().GetValues() {
							c.parents = append(c.parents, p.GetStringValue())
						}
					}
					return nil
				})
				out = append(out, c)
				return err
			})
		}
		return err
	})
	for i := range out {
		out[i].start = start
	}
	return out, err
}

// jsonRecord is a row of the PostgreSQL dialect: one JSONB with one member set.
type jsonRecord struct {
	Data *struct {
		CommitTimestamp time.Time `json:"commit_timestamp"`
		RecordSequence  string    `json:"record_sequence"`
		TransactionID   string    `json:"server_transaction_id"`
		Last            bool      `json:"is_last_record_in_transaction_in_partition"`
		TableName       string    `json:"table_name"`
		CaptureType     string    `json:"value_capture_type"`
		ModType         string    `json:"mod_type"`
		Records         int64     `json:"number_of_records_in_transaction"`
		Partitions      int64     `json:"number_of_partitions_in_transaction"`
		Tag             string    `json:"transaction_tag"`
		System          bool      `json:"is_system_transaction"`
		Columns         []struct {
			Name    string     `json:"name"`
			Type    columnType `json:"type"`
			Key     bool       `json:"is_primary_key"`
			Ordinal int64      `json:"ordinal_position"`
		} `json:"column_types"`
		Mods []struct {
			Keys json.RawMessage `json:"keys"`
			New  json.RawMessage `json:"new_values"`
			Old  json.RawMessage `json:"old_values"`
		} `json:"mods"`
	} `json:"data_change_record"`
	Heartbeat *struct {
		Timestamp time.Time `json:"timestamp"`
	} `json:"heartbeat_record"`
	Children *struct {
		Start    time.Time `json:"start_timestamp"`
		Children []struct {
			Token   string   `json:"token"`
			Parents []string `json:"parent_partition_tokens"`
		} `json:"child_partitions"`
	} `json:"child_partitions_record"`
	PartitionStart json.RawMessage `json:"partition_start_record"`
	PartitionEnd   json.RawMessage `json:"partition_end_record"`
	PartitionEvent json.RawMessage `json:"partition_event_record"`
}

// decodeJSON reads a row of the PostgreSQL dialect.
func decodeJSON(text []byte) ([]record, error) {
	var in jsonRecord
	if err := json.Unmarshal(text, &in); err != nil {
		return nil, fmt.Errorf("decode change record: %w", err)
	}
	var out []record
	switch {
	case in.PartitionStart != nil || in.PartitionEnd != nil || in.PartitionEvent != nil:
		return nil, errMutableKeyRange
	case in.Data != nil:
		d := in.Data
		seq, err := parseSequence(d.RecordSequence)
		if err != nil {
			return nil, fmt.Errorf("decode change record: %w", err)
		}
		r := &dataRecord{
			id: recordID{at: stampOf(d.CommitTimestamp), tx: d.TransactionID, seq: seq}, sequence: d.RecordSequence,
			table: d.TableName, modType: d.ModType, capture: d.CaptureType,
			last: d.Last, system: d.System, records: d.Records, partitions: d.Partitions, tag: d.Tag,
		}
		for _, c := range d.Columns {
			r.columns = append(r.columns, recordColumn{name: c.Name, typ: c.Type, key: c.Key, ordinal: c.Ordinal})
		}
		for _, m := range d.Mods {
			r.mods = append(r.mods, recordMod{keys: m.Keys, newValues: m.New, oldValues: m.Old})
		}
		out = append(out, record{data: r})
	case in.Heartbeat != nil:
		out = append(out, record{heartbeat: stampOf(in.Heartbeat.Timestamp)})
	case in.Children != nil:
		r := record{}
		for _, c := range in.Children.Children {
			r.children = append(r.children, child{token: c.Token, start: stampOf(in.Children.Start), parents: c.Parents})
		}
		out = append(out, r)
	}
	return out, check(out)
}

// check refuses what the rest of the source could not do without.
func check(records []record) error {
	if len(records) == 0 {
		return errors.New("a row of the change stream holds no record of a known kind")
	}
	for _, r := range records {
		if d := r.data; d != nil {
			switch {
			case d.id.at <= 0 || d.id.tx == "" || d.sequence == "":
				return errors.New("a data change record has no commit timestamp, transaction id or record sequence")
			case d.table == "" || len(d.columns) == 0 || len(d.columns) > maxColumns:
				return fmt.Errorf("a data change record of table %q lists %d columns", d.table, len(d.columns))
			case d.modType != "INSERT" && d.modType != "UPDATE" && d.modType != "DELETE":
				return fmt.Errorf("a data change record of table %q has mod type %q", d.table, d.modType)
			case len(d.mods) > maxMods:
				return fmt.Errorf("a data change record of table %q has %d mods", d.table, len(d.mods))
			}
			for _, c := range d.columns {
				for t := &c.typ; t != nil; t = t.Elem {
					if t.Code == "" || (t.Code == "ARRAY") != (t.Elem != nil) {
						return fmt.Errorf("column %s of table %q has no type", c.name, d.table)
					}
				}
			}
		}
		for _, c := range r.children {
			if c.token == "" || c.start <= 0 {
				return errors.New("a child partition has no token or no start timestamp")
			}
		}
		if r.data == nil && r.children == nil && r.heartbeat <= 0 {
			return errors.New("a record holds neither changes, nor a heartbeat, nor child partitions")
		}
	}
	return nil
}

func parseStamp(s string) (stamp, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	return stampOf(t), err
}

func parseInt(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }

// parseSequence reads a record sequence, such as 00000001.
func parseSequence(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err == nil && n > maxSequence {
		err = fmt.Errorf("%s is too large", s)
	}
	if err != nil {
		return 0, fmt.Errorf("record sequence: %w", err)
	}
	return n, nil
}
