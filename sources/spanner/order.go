package spanner

import "github.com/cespare/xxhash/v2"

// An Order is, in hexadecimal, the commit timestamp in nanoseconds, a hash of the transaction id, and in one number the record
// sequence and the mod's index in the record:
//
//	18a96c9b1f4e5c80.7f3d2a9c51b0e864.0000001200000003
//
// It sorts per key: two transactions with one commit timestamp, which have no order, never change the same row. The hash makes
// ids one width. Records of one sequence in two transactions of one nanosecond whose ids collide would have one Order.
const (
	maxSequence = 1<<32 - 1
	maxMods     = 1<<32 - 1
)

func appendOrder(dst []byte, id recordID, mod int) []byte {
	dst = appendHex(dst, uint64(id.at), 16)
	dst = append(dst, '.')
	dst = appendHex(dst, xxhash.Sum64String(id.tx), 16)
	dst = append(dst, '.')
	return appendHex(dst, id.seq<<32|uint64(mod), 16)
}

// appendRowOrder appends the order of a snapshot's row: before all that was committed at a timestamp, or later.
func appendRowOrder(dst []byte, at stamp, row int) []byte {
	dst = append(appendBelow(dst, at), ".0000000000000000."...)
	return appendHex(dst, uint64(row), 16)
}

// appendBelow appends what is above the order of all that was committed before a timestamp, and of nothing else.
func appendBelow(dst []byte, at stamp) []byte { return appendHex(dst, uint64(at), 16) }

func appendHex(dst []byte, n uint64, digits int) []byte {
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[n>>shift&15])
	}
	return dst
}
