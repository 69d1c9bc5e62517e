package vpn

import (
	"errors"
	"net/netip"
)

// ErrNoSession says that there are no keys of a device that could be used.
var ErrNoSession = errors.New("no session with that device")

// ErrNoParts says that the counters of a session's keys cannot be cut any further. A handshake was asked for.
var ErrNoParts = errors.New("session cannot be handed over before its next handshake")

// Incarnation names this run of the engine, at random. An export is made for one incarnation and refused by others.
func (g *Gateway) Incarnation() uint64 { return 0 }

// Export returns what the engine with incarnation to needs to go on with the confirmed session of a device: a secret,
// to be sent to that one gateway over an authenticated, encrypted stream and kept in memory only. Each call gives away
// a part of the keys' counters that is never given again, so every attempt to send needs an export of its own.
//
// With final this gateway stops sending under those keys first, but goes on opening what comes in: packets for the
// device go to Config.Forward from then on. Errors: ErrNoSession, ErrNoParts.
func (g *Gateway) Export(k Key, to uint64, final bool) ([]byte, error) { return nil, ErrNoSession }

// Import keeps an export until it is taken over, replaced or its keys are too old, and says whose it is. Nothing is sent
// and nothing is accepted under its keys until TakeOver. It copies. It refuses what is malformed, made for another
// incarnation, too old, of a device that is not enrolled, or not above all that was held of those keys before.
func (g *Gateway) Import(export []byte) (Key, error) { return Key{}, ErrNoSession }

// Held returns the devices of which there are imports to be taken over.
func (g *Gateway) Held() []Key { return nil }

// TakeOver makes the imported session of a device ours: its keys are used for opening and sealing from now on, and the
// device is sent an empty message under each of them, which makes it follow. Its caller has claimed the device before.
// New keys are made soon, paced. addr, if it is valid, is where the device is; else it is where its export says. It does
// not block. Without an import it returns ErrNoSession, and Initiate is what is left.
func (g *Gateway) TakeOver(k Key, addr netip.AddrPort) error { return ErrNoSession }

// Mute lets nothing more leave for a device that another gateway has claimed; what comes in from it is opened. If it
// is still heard muteGrace later, the event Heard is told, once. Initiate, TakeOver and Unmute end it; Drop ends the session.
func (g *Gateway) Mute(k Key) {}

// Unmute ends Mute.
func (g *Gateway) Unmute(k Key) {}

// Alone says for a device whether the gateway that would inherit it is out of reach: as long as it is, no handshake is
// begun with the device unless it was heard within the last 2 s.
func (g *Gateway) Alone(k Key, alone bool) {}

// Floors calls fn with what changed since the last call, in chunks of at most size bytes: for the keys that were
// exported to incarnation to, the first counter that their heir shall accept. The chunks are no secrets of worth but
// are sent like exports.
func (g *Gateway) Floors(to uint64, size int, fn func(chunk []byte)) {}

// RaiseFloors takes a chunk of Floors. What it says of keys that are not held is ignored.
func (g *Gateway) RaiseFloors(chunk []byte) error { return nil }

// Deliver seals a packet for a device and sends it, as if it had come from the TUN. It is for packets that the device's
// former gateway forwarded. It copies and does not block; it reports whether there is a session.
func (g *Gateway) Deliver(k Key, packet []byte) bool { return false }

// InjectTransport opens a transport message that another gateway has received from addr and not known. It copies.
func (g *Gateway) InjectTransport(m []byte, addr netip.AddrPort) {}
