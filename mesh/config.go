package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// DefaultListen is the port of the mesh.
const DefaultListen = ":7946"

// Config is what a member is made of. Functions are called from goroutines of
// the mesh, several at once, and never under a lock of it.
type Config struct {
	Key     ed25519.PrivateKey // ours; required
	Name    string             // for people; at most 64 bytes count
	Version string             // of our program, for people; at most 64 bytes count

	Cluster   [16]byte // which cluster this is
	GossipKey [32]byte // outer wrapper of serf's packets, see SetGossipKeys

	// Secrets returns what a newcomer must prove one of that names a
	// credential. It is called at each attempt, by newcomers that have proven
	// nothing: id is theirs, at most 4 KiB. An error is told to them with its
	// text: RefusedError if it is a decision. Nil: nobody joins here.
	Secrets func(kind string, id []byte) ([][32]byte, error)

	Listen    string         // [host]:port for TCP and UDP; "" means DefaultListen
	Advertise netip.AddrPort // where others reach us; zero: chosen by New
	Network   Network        // nil means System

	// States are replicated over the links, by name. Both sides of a link
	// exchange those that both have. The one called "config" is also what a
	// newcomer receives.
	States map[string]State

	// Admit says why the holder of a key may not be a member; nil means that
	// it may. An error that wraps ErrEvicted or ErrSuspended is told to it. voucher is what the peer carries from its
	// sponsor, at most 4 KiB, and may be nil. Nil: anybody.
	Admit   func(peer ed25519.PublicKey, voucher []byte) error
	Voucher []byte // ours; at most 4 KiB

	// Welcome records, durably, that a newcomer which has proven its credential
	// is admitted, and returns bytes for it, at most 64 KiB. An error is
	// told to the newcomer, see RefusedError; ErrNotMember means that we are not in a position
	// to admit anybody. Nil: the same.
	Welcome func(ctx context.Context, n Newcomer) ([]byte, error)

	// Claims answers members of other clusters that claim us. Nil: none can.
	Claims Claims

	// Logon returns what a newcomer joins with whose name and password are those of an administrator, at most
	// 16 KiB. An error is told to it, see RefusedError. Nil: nobody can log on.
	Logon func(ctx context.Context, n Newcomer, user, password string) ([]byte, error)

	// Beat returns the payload of our next heartbeat, at most 4 KiB. It is
	// called every 200 ms and must not block. Nil: none.
	Beat func() []byte

	// Book returns every address at which a member was ever seen. They are
	// dialled for ever. It is called every few seconds and may read a disk.
	// Nil: none.
	Book func() []netip.AddrPort

	// Events is told what happens, in order, by one goroutine. It must not
	// block. Nil: nobody is.
	Events func(Event)

	Log *slog.Logger // nil means slog.Default
}

// Newcomer has proven a credential and wants to become a member.
type Newcomer struct {
	Key           ed25519.PublicKey
	Name, Version string
	Addr          netip.AddrPort // from which it called
	Kind          string         // of the credential
	ID            []byte         // of the credential
	Time          time.Time      // what its clock showed when it called; zero: it did not say
}

func (c Config) withDefaults() (Config, error) {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Network == nil {
		c.Network = System
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Name, c.Version = clip(c.Name), clip(c.Version)
	if len(c.Voucher) > maxVoucher {
		return c, errors.New("voucher is too long")
	}
	if len(c.States) > maxNames {
		return c, errors.New("too many states")
	}
	for name := range c.States {
		if name == "" || len(name) > maxNameLen {
			return c, fmt.Errorf("state %q: bad name", name)
		}
	}
	return c, nil
}

// clip cuts s to what a name may be. What is not UTF-8 is left out: it could
// not be decoded.
func clip(s string) string { return clipText(s, maxNameLen) }

func clipText(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }
