package mesh

import (
	"context"
	"net/netip"
	"time"
)

// Sighting is somebody who announces itself on the LAN.
type Sighting struct {
	From   netip.AddrPort // where it listens
	Ours   bool           // it has our cluster key; else nothing more is known of it
	ID     ID
	Member bool // it is in a cluster, and not about to find one

	// Of a member: the beginning of its cluster's id, and when that began.
	Cluster [8]byte
	Born    time.Time
}

// maxSightings bounds what Look returns.
const maxSightings = 256

// Look listens on the LAN for a while and returns who was heard, each once, our own announcements included.
func Look(ctx context.Context, cfg FindConfig, long time.Duration) ([]Sighting, error) {
	f, err := cfg.open()
	if err != nil {
		return nil, err
	}
	defer f.conn.Close()
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	seen := map[Sighting]struct{}{}
	var out []Sighting
	for len(out) < maxSightings {
		b, from, err := f.conn.Receive(ctx)
		if err != nil {
			break // the time is over
		}
		s := Sighting{From: from}
		if h, err := openHint(f.key, b, from.Port()); err == nil {
			s.Ours, s.ID, s.Member = true, h.id, h.role == roleMember
			if s.Member {
				s.Cluster, s.Born = h.cluster, time.Unix(int64(h.born), 0)
			}
		}
		if _, ok := seen[s]; !ok {
			seen[s] = struct{}{}
			out = append(out, s)
		}
	}
	return out, nil
}
