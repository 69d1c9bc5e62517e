package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"time"
)

const (
	hintInterval  = 250 * time.Millisecond // of starters
	collectMember = 200 * time.Millisecond // after the first, for others to answer too
	maxFound      = 32
	memberHints   = 12 // of a new member, at hintInterval
	claimHints    = 4  // of one that begins, at claimInterval
	claimInterval = 25 * time.Millisecond
)

// FindConfig is what a gateway looks for its cluster with on the LAN.
type FindConfig struct {
	Key        ed25519.PrivateKey // ours: it decides who begins
	ClusterKey [32]byte           // whose members are looked for
	Cluster    [16]byte           // of a member: which cluster it is in
	Born       time.Time          // and when that began
	Port       uint16             // on which our mesh listens, or will
	LAN        LAN                // nil means LANSystem
	Log        *slog.Logger       // nil means slog.Default
}

// LAN is the multicast side of a network. [LANSystem] is the real one, package
// meshtest has one in memory.
type LAN interface {
	// Open opens it for a gateway that has this name, unique on the LAN, and
	// listens on port.
	Open(name string, port uint16, log *slog.Logger) (LANConn, error)
}

// LANConn is an open LAN. One goroutine calls Announce, one Receive.
type LANConn interface {
	// Announce makes hint, at most 64 bytes, what others receive from us: it
	// is sent now, and to whoever comes later and asks. It does not block.
	Announce(hint []byte) error
	// Receive returns the next hint of others and where they listen, until
	// ctx ends or the LANConn is closed. The first call begins to ask for
	// them. An unchanged hint may come once or many times; hints may be lost
	// and made up by others.
	Receive(ctx context.Context) (hint []byte, from netip.AddrPort, err error)
	Close() error
}

// Find looks for members of the cluster on the LAN and returns where they
// listen. If there are none it waits for others that start with the same key
// at the same time, and returns nothing, and no error, to the one of them
// that is to begin the cluster; that is never before two seconds. The others
// wait until that one announces itself as a member, and take its place if it
// goes away. Finding takes nothing for proven: a member may refuse, and what
// looks like one may be none.
func Find(ctx context.Context, cfg FindConfig) ([]netip.AddrPort, error) {
	f, err := cfg.open()
	if err != nil {
		return nil, err
	}
	defer f.conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	seen := make(chan sighting, 64)
	ended := make(chan struct{})
	go f.listen(ctx, seen, ended)
	defer func() { cancel(); f.conn.Close(); <-ended }()
	return f.elect(ctx, seen)
}

// Announce tells the LAN that a member is here, until ctx ends. The end of
// ctx is no error.
func Announce(ctx context.Context, cfg FindConfig) error {
	f, err := cfg.open()
	if err != nil {
		return err
	}
	defer f.conn.Close()
	return f.repeat(ctx, roleMember, hintInterval, memberHints)
}

// repeat says what we are n times, for those who miss one, and then stays
// until ctx ends to answer whoever asks.
func (f *finder) repeat(ctx context.Context, r role, every time.Duration, n int) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range n {
		if err := f.announce(r); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	<-ctx.Done()
	return nil
}

// finder is one call of Find or Announce.
type finder struct {
	conn  LANConn
	key   []byte
	port  uint16
	id    ID
	boot  uint64
	count uint32
	log   *slog.Logger
	// of the cluster of a member
	cluster [16]byte
	born    time.Time
}

type sighting struct {
	hint hint
	from netip.AddrPort
}

func (cfg FindConfig) open() (*finder, error) {
	if cfg.LAN == nil {
		cfg.LAN = LANSystem
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	self, err := newIdentity(cfg.Key)
	if err != nil {
		return nil, err
	}
	var boot [8]byte
	if _, err := rand.Read(boot[:]); err != nil {
		return nil, fmt.Errorf("draw boot id: %w", err)
	}
	// Several may run on one host, and one may look twice at a time.
	name := fmt.Sprintf("%s-%x", self.id, boot[:4])
	conn, err := cfg.LAN.Open(name, cfg.Port, cfg.Log)
	if err != nil {
		return nil, fmt.Errorf("open the LAN: %w", err)
	}
	return &finder{
		conn: conn, key: hintKey(cfg.ClusterKey), port: cfg.Port,
		id: self.id, boot: binary.BigEndian.Uint64(boot[:]), log: cfg.Log,
		cluster: cfg.Cluster, born: cfg.Born,
	}, nil
}

// announce says what we are, with a new count.
func (f *finder) announce(r role) error {
	f.count++
	h := hint{role: r, id: f.id, boot: f.boot, count: f.count}
	if r == roleMember {
		h.cluster, h.born = [8]byte(f.cluster[:8]), uint32(min(max(f.born.Unix(), 0), math.MaxUint32))
	}
	if err := f.conn.Announce(h.seal(f.key, f.port)); err != nil {
		return fmt.Errorf("announce on the LAN: %w", err)
	}
	return nil
}

// listen passes on the hints of our cluster until ctx ends or the LAN fails.
func (f *finder) listen(ctx context.Context, seen chan<- sighting, ended chan<- struct{}) {
	defer close(ended)
	for {
		b, from, err := f.conn.Receive(ctx)
		if err != nil {
			if ctx.Err() == nil {
				f.log.Warn("the LAN is not heard any more", "err", err)
			}
			return
		}
		h, err := openHint(f.key, b, from.Port())
		if err != nil || h.id == f.id {
			continue // of another cluster, of nobody, or our own
		}
		select {
		case seen <- sighting{h, from}:
		default:
		}
	}
}

// elect waits for members, or for us to be the one who begins.
func (f *finder) elect(ctx context.Context, seen <-chan sighting) ([]netip.AddrPort, error) {
	began := time.Now()
	e := election{self: f.id}
	as := roleStarter
	if err := f.announce(as); err != nil {
		return nil, err
	}
	tick := time.NewTicker(hintInterval / 2)
	defer tick.Stop()
	var found []netip.AddrPort
	var enough <-chan time.Time // nil until the first member is found
	for odd := true; ; odd = !odd {
		select {
		case s := <-seen:
			odd = !odd // not a tick
			if s.hint.role != roleMember {
				e.hear(s.hint, time.Since(began))
			} else if len(found) < maxFound && !slices.Contains(found, s.from) {
				found = append(found, s.from)
				if enough == nil {
					enough = time.After(collectMember)
				}
			}
			continue
		case <-enough:
			return found, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if enough != nil {
			continue
		}
		was := as
		var begin bool
		if as, begin = e.decide(time.Since(began)); begin {
			// A few times more, for those who missed it: it must last them
			// until we are a member.
			last, cancel := context.WithTimeout(ctx, claimHints*claimInterval)
			defer cancel()
			return nil, f.repeat(last, as, claimInterval, claimHints)
		}
		if odd || as != was {
			if err := f.announce(as); err != nil {
				return nil, err
			}
		}
	}
}
