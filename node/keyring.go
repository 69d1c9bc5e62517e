package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

// The gossip key and the cluster key may be replaced while the cluster runs. What holds is in the store; each gateway
// does of its own accord what follows from it (cluster.NextTurn) and says there how far it is. So no gateway leads, and
// one that was away, whatever keys it missed, is told those that hold now over links that need neither.

// keyPeriod is how often the keys are looked at without a reason, such as that one who should act does not.
const keyPeriod = 10 * time.Second

// errNoKey says that no cluster key holds. The members make one as soon as they see it.
var errNoKey = api.Errorf(api.Unavailable, "try again in a minute; `gatemesh keys rotate cluster` makes one",
	"no cluster key holds")

// clusterKeys returns the keys that a newcomer may prove now, the newest first and at least one, or an error such as
// errNoKey.
func (n *Node) clusterKeys() ([][32]byte, error) {
	r, err := n.store.Ring()
	if err != nil {
		return nil, fmt.Errorf("read cluster keys: %w", err)
	}
	keys := secretsOf(r.Of(cluster.JoinKey))
	if len(keys) == 0 {
		return nil, errNoKey
	}
	return keys, nil
}

// clusterKey returns the newest of them.
func (n *Node) clusterKey() (ClusterKey, error) {
	keys, err := n.clusterKeys()
	if err != nil {
		return ClusterKey{}, err
	}
	return keys[0], nil
}

func secretsOf(keys []cluster.RingKey) [][32]byte {
	out := make([][32]byte, len(keys))
	for i, k := range keys {
		out[i] = k.Secret
	}
	return out
}

// agreesOnKey refuses a key that never was one of this cluster. One that was is of no harm.
func (n *Node) agreesOnKey() error {
	if n.cfg.Key == nil {
		return nil
	}
	r, err := n.store.Ring()
	if err != nil {
		return fmt.Errorf("read cluster keys: %w", err)
	}
	id := cluster.KeyIDOf(cluster.JoinKey, *n.cfg.Key)
	if slices.ContainsFunc(r.Keys, func(k cluster.RingKey) bool { return k.ID == id }) {
		return nil
	}
	if _, was := r.Former[id]; was {
		n.log.Warn("--key is an old key of this cluster; nobody joins with it any more",
			"hint", "`gatemesh key show` prints the one that holds")
		return nil
	}
	return hintf("leave --key out, or use another --data directory for another cluster",
		"this gateway is in a cluster with another key")
}

// gossipKeys returns the keys of the gossip, the one to send under first.
func (n *Node) gossipKeys() ([][32]byte, error) {
	r, err := n.store.Ring()
	if err != nil {
		return nil, fmt.Errorf("read gossip keys: %w", err)
	}
	keys := r.Of(cluster.GossipKey)
	if len(keys) == 0 {
		return nil, errors.New("this cluster has no gossip key")
	}
	// Others may not hold a newer one than it said it uses.
	return inUseFirst(keys, r.Held[n.self][cluster.GossipKey].Uses), nil
}

// inUseFirst returns the secrets of keys, which are there, newest first: that of id, or of the oldest one, before all
// others.
func inUseFirst(keys []cluster.RingKey, id cluster.KeyID) [][32]byte {
	out := secretsOf(keys)
	i := slices.IndexFunc(keys, func(k cluster.RingKey) bool { return k.ID == id })
	if i < 0 {
		i = len(keys) - 1
	}
	use := out[i]
	return slices.Insert(slices.Delete(out, i, i+1), 0, use)
}

// present returns who is seen alive, this gateway included.
func (n *Node) present(p *parts) map[cluster.Node]bool {
	out := map[cluster.Node]bool{n.self: true}
	for _, m := range p.mesh.Members() {
		if m.Status == mesh.Alive {
			out[cluster.Node(m.ID)] = true
		}
	}
	return out
}

// memberNodes returns who is admitted.
func (n *Node) memberNodes() ([]cluster.Node, error) {
	admissions, err := n.store.Admissions()
	out := make([]cluster.Node, len(admissions))
	for i, a := range admissions {
		out[i] = cluster.NodeOf(a.Key)
	}
	return out, err
}

// turnKeys does what is to be done about the keys whenever something changes.
func (n *Node) turnKeys(ctx context.Context, p *parts) error {
	tick := time.NewTicker(keyPeriod)
	defer tick.Stop()
	var leaving *cluster.SealedError
	for late := false; ; {
		if err := n.turnOnce(ctx, p, late); err != nil && ctx.Err() == nil && !errors.As(err, &leaving) {
			n.log.Warn("keys are not turned", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.keys:
			late = false
		case <-tick.C:
			late = true
		}
	}
}

// turnOnce does the next step with the keys of each kind. late says that whoever should remove keys had time to.
func (n *Node) turnOnce(ctx context.Context, p *parts, late bool) error {
	r, err := n.store.Ring()
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	members, err := n.memberNodes()
	if err != nil {
		return fmt.Errorf("read admissions: %w", err)
	}
	if !slices.Contains(members, n.self) {
		return nil
	}
	present := n.present(p)
	leads := !slices.ContainsFunc(members, func(m cluster.Node) bool {
		return present[m] && bytes.Compare(m[:], n.self[:]) < 0
	})
	if kinds := r.Uncovered(); len(kinds) > 0 && (leads || late) && !p.exile.silent.Load() {
		if _, err := n.store.RenewKeys(ctx); err != nil {
			return fmt.Errorf("make new keys: %w", err)
		}
		n.log.Warn("new keys, as an evicted gateway may know all of before", "kinds", kinds)
		if r, err = n.store.Ring(); err != nil {
			return fmt.Errorf("read keys: %w", err)
		}
	}
	if !r.Turned() {
		return nil
	}
	held := map[cluster.KeyKind]cluster.Holding{}
	var remove []cluster.RingKey
	if leads || late {
		remove = append(remove, r.Spent...)
	}
	for _, kind := range cluster.KeyKinds {
		t := cluster.NextTurn(&r, kind, n.self, members, func(m cluster.Node) bool { return present[m] })
		if len(t.Hold) == 0 {
			continue
		}
		if kind == cluster.GossipKey {
			if err := p.mesh.SetGossipKeys(inUseFirst(t.Hold, t.Use)); err != nil {
				return err
			}
		}
		h := cluster.Holding{Uses: t.Use}
		for _, k := range t.Hold {
			h.Holds = append(h.Holds, k.ID)
			mine := t.Hold[0].By == n.self || !present[t.Hold[0].By] // who began it ends it, if it is there
			if slices.Contains(t.Remove, k.ID) && (mine || late) {
				remove = append(remove, k)
			}
		}
		held[kind] = h
		if r.Held[n.self][kind].Uses != h.Uses && h.Uses != t.Hold[len(t.Hold)-1].ID {
			n.log.Info("key in use", "kind", kind, "key", h.Uses)
			n.tell(api.Event{Kind: api.EventRotated, GatewayID: n.self.String(), Text: fmt.Sprintf("uses %s key %s", kind, h.Uses)})
		}
	}
	poke(p.hints)
	if err := n.store.HoldKeys(ctx, held); err != nil {
		return fmt.Errorf("say which keys are held: %w", err)
	}
	if err := n.store.RemoveKeys(ctx, remove...); err != nil {
		return fmt.Errorf("remove keys: %w", err)
	}
	for _, k := range remove {
		n.log.Info("key removed", "kind", k.Kind, "key", k.ID)
		n.tell(api.Event{Kind: api.EventRotated, GatewayID: n.self.String(), Text: fmt.Sprintf("removed %s key %s", k.Kind, k.ID)})
	}
	return nil
}

// poke puts a token into a channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// onMembership is told by the store that admissions, evictions or keys may have changed. It does not block.
func (n *Node) onMembership(p *parts) {
	if err := n.bar(p); err != nil {
		n.log.Error("read evictions", "err", err)
	}
	p.mesh.Recheck()
	poke(p.keys)
	poke(p.exile.wake)
}

// bar ends what there is with gateways that were evicted.
func (n *Node) bar(p *parts) error {
	evictions, err := n.store.Evictions()
	if err != nil {
		return err
	}
	ids := make([]mesh.ID, len(evictions))
	for i, v := range evictions {
		ids[i] = mesh.ID(v.Node)
	}
	p.mesh.Bar(ids...)
	return nil
}

// membershipKinds are the kinds in the store at whose change onMembership is told.
var membershipKinds = []string{"admission", "key", "ring"}

// sameKeys says whether two sets of keys are the same.
func sameKeys(a, b [][32]byte) bool {
	set := func(keys [][32]byte) map[[32]byte]bool {
		m := map[[32]byte]bool{}
		for _, k := range keys {
			m[k] = true
		}
		return m
	}
	return maps.Equal(set(a), set(b))
}
