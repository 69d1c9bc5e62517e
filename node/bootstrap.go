package node

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/mesh"
)

const (
	joinTimeout = 10 * time.Second       // until a member begins to hand over the configuration
	joinPause   = time.Second            // between two rounds of tries
	joinStagger = 500 * time.Millisecond // before the next member of a round is asked too
)

// arrival is how a gateway got into its cluster at this start.
type arrival struct {
	facts
	begun, joined bool
	seeds         []netip.AddrPort // members that were reached
}

// arrive returns the facts of the cluster that this gateway is in, after it
// was begun or joined where that is necessary. It blocks until there is one.
//
//	admitted before ──────────────────────────────► as itself
//	--join gmt1-… ─► ask its members ─────────────► joined
//	 --user NAME ─► password at HOST ─► a token, as above
//	--join HOST ──► ask until somebody answers ───► joined
//	--key ──► LAN ──► members? ──► ask them ──────► joined
//	            └──── nobody, or we are lowest ──► begun
//	nothing ──────────────────────────────────────► begun
func (n *Node) arrive(ctx context.Context) (a arrival, err error) {
	if err := n.exiled(); err != nil {
		return a, err
	}
	f, ok, err := loadFacts(n.store, n.self)
	if err != nil {
		return a, fmt.Errorf("read the cluster's settings: %w", err)
	}
	if ok {
		if n.cfg.Join != "" || n.cfg.Token != nil { // another way back, should the addresses that we know be old
			doors, err := n.doors(ctx)
			if err != nil {
				n.log.Warn("--join is of no help", "err", err)
			}
			a.seeds = addrsOf(doors)
		}
		a.facts = f
		return a, errors.Join(n.abides(f), n.endJoining())
	}
	if err := errors.Join(n.cutShort(), n.resumeJoining()); err != nil {
		return a, err
	}
	if err := n.logOnFirst(ctx); err != nil {
		return a, err
	}
	switch {
	case n.cfg.Join != "" || n.cfg.Token != nil:
		trial, stop := n.trial(ctx)
		a.seeds, err = n.joinAt(trial)
		stop()
	case n.cfg.Key != nil:
		a.seeds, err = n.joinOnLAN(ctx)
	}
	if err != nil && ctx.Err() == nil {
		err = n.putBack(err)
	}
	if err != nil {
		return a, err
	}
	if len(a.seeds) == 0 {
		a.begun = true
		a.facts, err = n.begin(ctx)
		return a, err
	}
	a.joined = true
	if a.facts, ok, err = loadFacts(n.store, n.self); err == nil && !ok {
		err = errors.New("the cluster admitted this gateway without its settings")
	}
	if err == nil {
		err = errors.Join(n.abides(a.facts), n.endJoining())
	}
	return a, err
}

// agrees refuses flags that contradict the cluster that the gateway is in.
func (n *Node) agrees(f facts) error {
	if err := n.agreesOnKey(); err != nil {
		return err
	}
	if t := n.cfg.Token; t != nil && string(t.Cluster) != string(f.cluster[:]) {
		return hintf("leave --join out; to take this gateway to another cluster, run `gatemesh gateway reset` first",
			"this gateway is in another cluster than that of the join token")
	}
	if p := n.cfg.Pool; p.IsValid() && p.Masked() != f.pool {
		return hintf("leave --pool out; the pool is the cluster's and fixed at its beginning",
			"the pool of this cluster is %s, not %s", f.pool, p)
	}
	return nil
}

// begin makes a cluster of one.
func (n *Node) begin(ctx context.Context) (facts, error) {
	if !n.emptyStore() {
		return facts{}, errForeign
	}
	key, pool := NewClusterKey(), netip.MustParsePrefix(DefaultPool)
	if n.cfg.Key != nil {
		key = *n.cfg.Key
	}
	if n.cfg.Pool.IsValid() {
		pool = n.cfg.Pool
	}
	if n.wantsTUN() { // before anything is written: the pool is fixed from then on
		if err := poolIsFree(pool); err != nil {
			return facts{}, err
		}
	}
	f := newFacts(pool)
	now := n.cfg.Now()
	err := n.store.Admit(ctx, cluster.Admission{
		Key: n.public(), Name: n.name, Sponsor: n.self, At: now,
		Statement: cluster.SignAdmission(n.key, f.cluster, n.public(), now),
	})
	if err == nil {
		err = n.store.SetSettings(ctx, f.settings(key))
	}
	if err != nil {
		return f, fmt.Errorf("begin cluster: %w", err)
	}
	return f, nil
}

// joinAt asks those whom --join names until one answers: a gateway that was
// told whom to join never begins a cluster of its own.
func (n *Node) joinAt(ctx context.Context) ([]netip.AddrPort, error) {
	for told := ""; ; {
		doors, err := n.doors(ctx)
		if err == nil {
			var done []netip.AddrPort
			if done, err = n.joinAny(ctx, doors); err == nil {
				return done, nil
			}
		}
		var fatal *HintError
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.As(err, &fatal):
			return nil, err
		case n.cfg.Token != nil && n.cfg.Now().After(n.cfg.Token.expires().Add(maxClockGap)):
			return nil, hintf(anotherToken, "the join token has expired at %s, and nobody answers: %w",
				n.cfg.Token.expires().Format(time.RFC3339), err)
		case err.Error() != told:
			told = err.Error()
			n.log.Warn("waiting for a member to answer", "err", err)
		}
		if err := sleep(ctx, joinPause); err != nil {
			return nil, err
		}
	}
}

// joinOnLAN joins whichever member of the cluster answers on the LAN; nil
// means that nobody did and this gateway is the one to begin.
func (n *Node) joinOnLAN(ctx context.Context) ([]netip.AddrPort, error) {
	cfg, err := n.find(*n.cfg.Key, 0)
	if err != nil {
		return nil, err
	}
	for {
		members, err := mesh.Find(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("look round on the LAN: %w", err)
		}
		if len(members) == 0 {
			return nil, nil
		}
		done, err := n.joinAny(ctx, doorsAt(members))
		if err == nil {
			return done, nil
		}
		var refused *mesh.RefusedError
		if errors.As(err, &refused) && refused.Final {
			return nil, err
		}
		n.log.Warn("a member on the LAN did not admit us", "members", members, "err", err)
		if err := sleep(ctx, joinPause); err != nil {
			return nil, err
		}
	}
}

// joinAny asks at the doors, each a little later than the one before, and
// returns that of the member that admitted us. Only one of them gets as far as
// handing over its configuration: two clusters are never mixed in one store.
func (n *Node) joinAny(ctx context.Context, doors []door) ([]netip.AddrPort, error) {
	blank, err := n.store.Blank()
	if err != nil {
		return nil, err
	}
	if blank {
		n.remains = ""
	}
	if err := n.noteJoining(); err != nil {
		return nil, err
	}
	remains := n.remains // the one that is chosen sets it anew
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var chosen atomic.Int64 // number of the member that hands over, from 1
	results := make([]error, len(doors))
	var g errgroup.Group
	for i, d := range doors {
		g.Go(func() error {
			me := int64(i + 1)
			if results[i] = sleep(ctx, time.Duration(i)*joinStagger); results[i] != nil {
				return nil
			}
			mine, stop := context.WithCancel(ctx)
			defer stop()
			limit := time.AfterFunc(joinTimeout, func() {
				if chosen.Load() != me {
					stop()
				}
			})
			defer limit.Stop()
			state := &handover{n.store, &chosen, me}
			_, _, results[i] = mesh.Join(mine, mesh.JoinConfig{
				Key: n.key, Credential: n.credential(d), Name: n.name, Version: n.cfg.Version, Now: n.cfg.Now,
				Network: n.cfg.Network, State: state, Log: n.log.With("component", "mesh"),
				Welcomed: func(data []byte) error {
					if err := n.ofRemains(remains, data); err != nil {
						return err
					}
					if !state.choose() {
						return errOther
					}
					return n.noteCluster(data)
				},
			}, d.addr)
			if results[i] == nil {
				cancel() // the others are not needed
			}
			return nil
		})
	}
	_ = g.Wait()
	if i := slices.Index(results, nil); i >= 0 {
		return []netip.AddrPort{doors[i].addr}, nil
	}
	return nil, n.joinError(doors, results)
}

// handover is the store as one of several members sees it that are asked to
// admit us: the first to hand over its configuration is the only one.
type handover struct {
	*cluster.Store
	chosen *atomic.Int64
	me     int64
}

// choose reports whether this member is the one.
func (h *handover) choose() bool { return h.chosen.CompareAndSwap(0, h.me) || h.chosen.Load() == h.me }

var errOther = errors.New("another member was faster")

// Merge implements [mesh.State].
func (h *handover) Merge(part []byte) (bool, error) {
	if !h.choose() {
		return false, errOther
	}
	return h.Store.Merge(part)
}

// find is what the LAN is told: port is that of the mesh, or 0 for the one
// that was asked for.
func (n *Node) find(key ClusterKey, port uint16) (mesh.FindConfig, error) {
	if port == 0 {
		_, p, err := splitPort(n.cfg.Mesh)
		if err != nil {
			return mesh.FindConfig{}, err
		}
		port = p
	}
	return mesh.FindConfig{
		Key: n.key, ClusterKey: key, Port: port, LAN: n.cfg.LAN,
		Log: n.log.With("component", "mesh"),
	}, nil
}

// admit says whether a key may be a member: by its entry, or by the statement
// of a sponsor that has one.
func (n *Node) admit(f facts, key ed25519.PublicKey, voucher []byte) error {
	a, ok, err := n.store.Admitted(cluster.NodeOf(key))
	if err != nil || ok {
		return err
	}
	if a.Key != nil {
		return mesh.ErrSuspended
	}
	if _, evicted, err := n.store.Evicted(cluster.NodeOf(key)); err != nil || evicted {
		return cmp.Or(err, mesh.ErrEvicted)
	}
	if left, err := n.store.Departed(cluster.NodeOf(key)); err != nil || left {
		return cmp.Or(err, errors.New("it has left the cluster"))
	}
	newcomer, sponsor, at, err := cluster.VerifyAdmission(voucher, f.cluster)
	if err != nil {
		return fmt.Errorf("not admitted, and no sponsor: %w", err)
	}
	if !newcomer.Equal(key) {
		return errors.New("not admitted, and the sponsor speaks for another")
	}
	if _, evicted, err := n.store.Evicted(cluster.NodeOf(sponsor)); err != nil {
		return err
	} else if evicted {
		n.waiting.add(cluster.Admission{Key: newcomer, Sponsor: cluster.NodeOf(sponsor), At: at})
		return mesh.ErrSuspended
	}
	if _, ok, err := n.store.Admitted(cluster.NodeOf(sponsor)); err != nil || !ok {
		return errors.Join(errors.New("not admitted, and the sponsor is no member"), err)
	}
	return nil
}

// resolve returns the addresses of host[:port]; without a port it is that of
// DefaultMesh.
func resolve(ctx context.Context, target string) ([]netip.AddrPort, error) {
	host, text, err := net.SplitHostPort(target)
	if err != nil {
		host, text = strings.Trim(target, "[]"), DefaultMesh[1:]
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || host == "" {
		return nil, hintf("use --join HOST or --join HOST:PORT", "%q is not HOST:PORT", target)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a, uint16(port))}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	out := make([]netip.AddrPort, 0, len(ips))
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return out, nil
}

// sleep waits for d unless ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
