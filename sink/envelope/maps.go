package envelope

// appendMap appends an hstore, "k1"=>"v1", "k2"=>NULL, as a JSON object with strings and nulls.
// Its form: https://www.postgresql.org/docs/current/hstore.html
func appendMap(_ *codec, dst, s []byte) ([]byte, error) {
	dst = append(dst, '{')
	for first := true; len(s) > 0; first = false {
		if !first {
			if len(s) < 2 || s[0] != ',' || s[1] != ' ' {
				return dst, errMap
			}
			s = s[2:]
			dst = append(dst, ',')
		}
		var err error
		if dst, s, err = appendMapText(dst, s); err != nil {
			return dst, err
		}
		if len(s) < 2 || s[0] != '=' || s[1] != '>' {
			return dst, errMap
		}
		s = s[2:]
		dst = append(dst, ':')
		if len(s) >= 4 && string(s[:4]) == "NULL" {
			dst, s = append(dst, "null"...), s[4:]
			continue
		}
		if dst, s, err = appendMapText(dst, s); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

// appendMapText appends the quoted key or value that s starts with, and returns what follows it.
func appendMapText(dst, s []byte) (out, rest []byte, err error) {
	start := len(dst)
	dst, text, rest, ok := unquote(dst, s)
	if !ok {
		return dst, nil, errMap
	}
	end := len(dst)
	if dst, err = appendString(dst, text); err != nil {
		return dst, nil, err
	}
	return cut(dst, start, end), rest, nil
}

// appendMapString appends an hstore as a string that holds a JSON object.
func appendMapString(c *codec, dst, data []byte) ([]byte, error) {
	start := len(dst)
	dst, err := appendMap(c, dst, data)
	if err != nil {
		return dst, err
	}
	end := len(dst)
	if dst, err = appendString(dst, dst[start:end]); err != nil {
		return dst, err
	}
	return cut(dst, start, end), nil
}
