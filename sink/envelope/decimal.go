package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"math/big"
	"math/bits"
	"strconv"
)

// splitDecimal checks a decimal's form: an optional minus sign, digits, and perhaps a point and more digits.
func splitDecimal(s []byte) (negative bool, whole, fraction []byte, ok bool) {
	if len(s) > 0 && s[0] == '-' {
		negative, s = true, s[1:]
	}
	n := digits(s)
	if n == 0 {
		return false, nil, nil, false
	}
	whole, s = s[:n], s[n:]
	if len(s) > 0 {
		if s[0] != '.' || len(s) == 1 || digits(s[1:]) != len(s)-1 {
			return false, nil, nil, false
		}
		fraction = s[1:]
	}
	return negative, whole, fraction, true
}

func appendDecimalText(_ *codec, dst, data []byte) ([]byte, error) {
	if _, _, _, ok := splitDecimal(data); !ok && !special(data) {
		return dst, errDecimal
	}
	return appendPlain(dst, data), nil
}

// appendDecimalBytes appends a decimal of a known scale as the base64 of its unscaled value, and one of any scale as an
// object of both (https://debezium.io/documentation/reference/stable/connectors/postgresql.html#postgresql-decimal-types).
// The scale is the one that the value has: Debezium drops zeros at its end, which are part of what PostgreSQL stores.
func appendDecimalBytes(c *codec, dst, data []byte) ([]byte, error) {
	negative, whole, fraction, ok := splitDecimal(data)
	if !ok {
		if special(data) {
			return dst, errDecimalSpecial
		}
		return dst, errDecimal
	}
	if c.variable {
		dst = append(dst, `{"scale":`...)
		dst = strconv.AppendInt(dst, int64(len(fraction)), 10)
		dst = append(dst, `,"value":`...)
		dst = appendUnscaled(dst, negative, whole, fraction, 0)
		return append(dst, '}'), nil
	}
	zeros := c.scale - len(fraction)
	if zeros < 0 {
		// Only a negative scale may drop digits, and only zeros: numeric(5,-2) holds hundreds.
		drop := -zeros
		if c.scale >= 0 || len(fraction) > 0 {
			return dst, errDecimalScale
		}
		if drop >= len(whole) {
			whole, drop = bytes.TrimLeft(whole, "0"), 0
			if len(whole) > 0 {
				return dst, errDecimalScale
			}
		} else if len(bytes.Trim(whole[len(whole)-drop:], "0")) > 0 {
			return dst, errDecimalScale
		}
		whole, zeros = whole[:len(whole)-drop], 0
	}
	return appendUnscaled(dst, negative, whole, fraction, zeros), nil
}

// smallDigits is the number of decimal digits that always fit into 127 bits.
const smallDigits = 38

// appendUnscaled appends the base64 of the integer whose digits are whole, fraction and a number of zeros: big-endian, in
// two's complement, as short as can be, which is what java.math.BigInteger.toByteArray returns.
func appendUnscaled(dst []byte, negative bool, whole, fraction []byte, zeros int) []byte {
	if len(whole)+len(fraction)+zeros > smallDigits {
		return appendUnscaledBig(dst, negative, whole, fraction, zeros)
	}
	var hi, lo uint64
	step := func(digit uint64) {
		high, low := bits.Mul64(lo, 10)
		low, carry := bits.Add64(low, digit, 0)
		hi, lo = hi*10+high+carry, low
	}
	for _, b := range whole {
		step(uint64(b - '0'))
	}
	for _, b := range fraction {
		step(uint64(b - '0'))
	}
	for range zeros {
		step(0)
	}
	if negative {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, shortest(b[:]))
	return append(dst, '"')
}

// shortest drops the leading bytes that only repeat the sign.
func shortest(b []byte) []byte {
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	return b
}

// appendUnscaledBig does the same for numbers of any length, at the price of allocations.
func appendUnscaledBig(dst []byte, negative bool, whole, fraction []byte, zeros int) []byte {
	text := make([]byte, 0, len(whole)+len(fraction)+zeros)
	text = append(append(text, whole...), fraction...)
	text = append(text, bytes.Repeat([]byte{'0'}, zeros)...)
	n, _ := new(big.Int).SetString(string(text), 10)
	b := make([]byte, n.BitLen()/8+1)
	if negative && n.Sign() != 0 {
		// The complement of n-1 is -n; its sign bit is that of the byte in front, which FillBytes leaves zero.
		n.Sub(n, big.NewInt(1)).FillBytes(b)
		for i := range b {
			b[i] = ^b[i]
		}
	} else {
		n.FillBytes(b)
	}
	return appendBase64(dst, shortest(b))
}
