package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Gateway is what a gateway says of itself, and what an administrator may change
// of it from anywhere. Each field is replicated on its own.
type Gateway struct {
	Node     Node
	Name     string
	Public   string           // host:port that devices use; "" if none is known
	Mesh     []netip.AddrPort // every address at which other gateways may find it
	Capacity int              // sessions
	OS       string
	Arch     string
	Hostname string
	Version  string
	Started  time.Time // to the millisecond; zero: never
	Standby  bool      // it serves devices only while no active gateway has room
	Told     string    // what it was told at its last start, in its own words: only itself reads it
	Format   int       // the newest data format that it understands; 0: it never said, which means 1
}

// gatewayFields name the fields in the store with their text, one way and the other.
var gatewayFields = []struct {
	name string
	get  func(*Gateway) string
	set  func(*Gateway, string)
}{
	{"name", func(g *Gateway) string { return g.Name }, func(g *Gateway, v string) { g.Name = v }},
	{"public", func(g *Gateway) string { return g.Public }, func(g *Gateway, v string) { g.Public = v }},
	{"mesh", func(g *Gateway) string { return joinAddrs(g.Mesh) }, func(g *Gateway, v string) { g.Mesh = splitAddrs(v) }},
	{"capacity", func(g *Gateway) string { return strconv.Itoa(g.Capacity) }, func(g *Gateway, v string) { g.Capacity, _ = strconv.Atoi(v) }},
	{"os", func(g *Gateway) string { return g.OS }, func(g *Gateway, v string) { g.OS = v }},
	{"arch", func(g *Gateway) string { return g.Arch }, func(g *Gateway, v string) { g.Arch = v }},
	{"hostname", func(g *Gateway) string { return g.Hostname }, func(g *Gateway, v string) { g.Hostname = v }},
	{"version", func(g *Gateway) string { return g.Version }, func(g *Gateway, v string) { g.Version = v }},
	{"started", func(g *Gateway) string { return formatTime(g.Started) }, func(g *Gateway, v string) { g.Started = parseTime(v) }},
	{
		"role", func(g *Gateway) string { return roleText(g.Standby) },
		func(g *Gateway, v string) { g.Standby = v == roleStandby },
	},
	{fieldTold, func(g *Gateway) string { return g.Told }, func(g *Gateway, v string) { g.Told = v }},
	{
		"format", func(g *Gateway) string { return strconv.Itoa(g.Format) },
		func(g *Gateway, v string) { g.Format, _ = strconv.Atoi(v) },
	},
}

const (
	fieldTold   = "told"
	roleActive  = "active"
	roleStandby = "standby"
)

func roleText(standby bool) string {
	if standby {
		return roleStandby
	}
	return roleActive
}

func joinAddrs(as []netip.AddrPort) string {
	text := make([]string, len(as))
	for i, a := range as {
		text[i] = a.String()
	}
	return strings.Join(text, " ")
}

// splitAddrs leaves out what is no address: it may be of a newer version.
func splitAddrs(s string) (as []netip.AddrPort) {
	for f := range strings.FieldsSeq(s) {
		if a, err := netip.ParseAddrPort(f); err == nil {
			as = append(as, a)
		}
	}
	return as
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return strconv.FormatInt(t.UnixMilli(), 10)
}

func parseTime(s string) time.Time {
	ms, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func gatewayRef(n Node) ref { return refOf(kindGateway, n[:]) }

// PutGateway writes the fields that differ from what stands, as one transaction.
// If none does, nothing is written and nothing is replicated.
func (s *Store) PutGateway(ctx context.Context, g Gateway) error {
	return s.EditGateway(ctx, g.Node, func(stands *Gateway) { *stands = g })
}

// EditGateway is PutGateway for what follows from what stands: edit changes it. It may be called several times,
// and does nothing else.
func (s *Store) EditGateway(ctx context.Context, n Node, edit func(*Gateway)) error {
	if n.IsZero() {
		return fmt.Errorf("gateway without a node: %w", ErrNotFound)
	}
	return s.update(ctx, func(t *tx) error {
		r := gatewayRef(n)
		e, err := t.entity(r)
		if err != nil {
			return err
		}
		g := gatewayOf(n, e)
		edit(&g)
		for _, f := range gatewayFields {
			v := f.get(&g)
			if err := checkLength("gateway's "+f.name, len(v), 4<<10); err != nil {
				return err
			}
			if c := e.get(f.name); c != nil && string(c.value) == v {
				continue
			}
			if err := t.put(r, f.name, []byte(v)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Gateway returns a gateway, or an error that wraps ErrNotFound.
func (s *Store) Gateway(n Node) (g Gateway, err error) {
	err = s.view(func(txn *badger.Txn) error {
		e, err := readEntity(snapshot{txn}, gatewayRef(n))
		if err != nil {
			return err
		}
		if len(e.cells) == 0 {
			return fmt.Errorf("gateway %s: %w", n, ErrNotFound)
		}
		g = gatewayOf(n, e)
		return nil
	})
	return g, err
}

// Gateways returns all gateways that were not evicted, by name, then node.
func (s *Store) Gateways() ([]Gateway, error) {
	var gs []Gateway
	err := s.judge(func(txn *badger.Txn, v *verdicts) error {
		return eachOf(txn, kindGateway, func(id []byte, e *entity) error {
			if len(id) != len(Node{}) {
				return nil
			}
			if _, evicted := v.of[Node(id)]; !evicted {
				gs = append(gs, gatewayOf(Node(id), e))
			}
			return nil
		})
	})
	slices.SortFunc(gs, func(a, b Gateway) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Node.String(), b.Node.String()))
	})
	return gs, err
}

func gatewayOf(n Node, e *entity) Gateway {
	g := Gateway{Node: n}
	for _, f := range gatewayFields {
		if c := e.get(f.name); c != nil {
			f.set(&g, string(c.value))
		}
	}
	return g
}

// FindGateway returns the gateway of a name, of a node, or of the beginning of a
// node with at least 6 digits; a name goes first. It returns an error that wraps
// ErrNotFound, or an *AmbiguousError.
func (s *Store) FindGateway(nameOrID string) (Gateway, error) {
	all, err := s.Gateways()
	if err != nil {
		return Gateway{}, err
	}
	named := func(g Gateway) bool { return g.Name == nameOrID }
	begins := func(g Gateway) bool { return strings.HasPrefix(g.Node.String(), nameOrID) }
	found := filter(all, named)
	if len(found) == 0 && len(nameOrID) >= minPrefix {
		found = filter(all, begins)
	}
	switch len(found) {
	case 0:
		return Gateway{}, fmt.Errorf("gateway %q: %w", nameOrID, ErrNotFound)
	case 1:
		return found[0], nil
	}
	e := &AmbiguousError{Name: nameOrID}
	for _, g := range found {
		e.IDs = append(e.IDs, g.Node.String())
	}
	slices.Sort(e.IDs)
	return Gateway{}, e
}

func filter[T any](all []T, keep func(T) bool) (some []T) {
	for _, v := range all {
		if keep(v) {
			some = append(some, v)
		}
	}
	return some
}
