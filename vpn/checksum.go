package vpn

import "math/bits"

// sum adds b, as 16-bit words in the machine's little-endian reading, to a ones' complement sum (RFC 1071). Only the
// last part of what is summed may have an odd length.
func sum(b []byte, acc uint64) uint64 {
	var carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, le.Uint64(b), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, le.Uint64(b[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, le.Uint64(b), carry)
		b = b[8:]
	}
	var last uint64
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	acc, carry = bits.Add64(acc, last, carry)
	acc, carry = bits.Add64(acc, 0, carry)
	return acc + carry
}

// fold makes the 16 bits of a sum, in network byte order when they are stored as le.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&(1<<32-1)
	acc = acc>>16 + acc&(1<<16-1)
	acc = acc>>16 + acc&(1<<16-1)
	return uint16(acc>>16 + acc)
}

// pseudoSum is the sum of the pseudo header of n bytes of TCP or UDP (RFC 9293 §3.1, RFC 8200 §8.1); addresses are
// source and destination, side by side.
func pseudoSum(addresses []byte, protocol byte, n int) uint64 {
	var tail [4]byte
	tail[1] = protocol
	be.PutUint16(tail[2:], uint16(n))
	return sum(tail[:], sum(addresses, 0))
}
