package vpn

import "net/netip"

// Key is an X25519 key, or a preshared key.
type Key = [32]byte

// Device is what the cluster knows of an enrolled device.
type Device struct {
	Key          Key
	PresharedKey Key            // zero: none
	Addresses    []netip.Prefix // its allowed IPs: what it may send from and is sent
	Received     Timestamp      // greatest TAI64N ever received from it, cluster-wide
	Sent         Timestamp      // greatest ever sent to it, cluster-wide
}

// LookupFunc finds an enrolled, enabled device. It is called by handshake workers, concurrently, and by Refresh in
// its caller's goroutine, never with a lock held or on the packet path; it may read a disk. The Device's slices must
// not be changed afterwards.
type LookupFunc func(Key) (Device, bool)

// SteerFunc decides who answers an initiation that opened with our key and names the enrolled device k at address
// from: true is here, false says that it has been passed to another gateway, and nothing is answered. It is called by
// a handshake worker, never on the packet path, and delays other handshakes while it runs. initiation has 148 bytes,
// belongs to the caller and is valid during the call. The device is proven and its timestamp later than any that this
// gateway knows of; whether it is still at that address, and whether another gateway has seen the same initiation, is not.
type SteerFunc func(k Key, from netip.AddrPort, initiation []byte) bool

// ForwardFunc takes a packet for a device whose session was exported for good, to be brought to its new gateway. It is
// called on the packet path: it must not block and copies what it keeps.
type ForwardFunc func(k Key, packet []byte)

// UnknownFunc takes a transport message whose receiver index is not known here, from address from, at a bounded rate.
// It is called on the packet path: it must not block and copies what it keeps.
type UnknownFunc func(index uint32, from netip.AddrPort, message []byte)
