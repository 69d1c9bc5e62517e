package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// reviewed is for how long before its eviction the writes of a gateway are listed.
const reviewed = 30 * day

// EvictGateway implements [api.Evictions].
func (n *Node) EvictGateway(ctx context.Context, ref string) (api.Eviction, error) {
	if _, err := n.running(); err != nil {
		return api.Eviction{}, err
	}
	g, err := n.store.FindGateway(ref)
	if errors.Is(err, cluster.ErrNotFound) {
		if v, ok := n.findEvicted(ref); ok {
			return api.Eviction{}, api.Errorf(api.Exists, "`gatemesh gateway evicted` shows what is to be looked at",
				"%s was evicted on %s", cmp.Or(v.Name, ref), v.At.Format(time.RFC3339))
		}
	}
	if err != nil {
		return api.Eviction{}, gatewayError(ref, err)
	}
	if g.Node == n.self {
		hint := "evict it at another gateway; one that is to go of its own accord is reset: `gatemesh gateway reset`"
		return api.Eviction{}, api.Errorf(api.Invalid, hint, "%s is this gateway itself", g.Name)
	}
	if err := n.store.Expel(ctx, g.Node); err != nil {
		return api.Eviction{}, gatewayError(ref, err)
	}
	n.log.Warn("gateway evicted", "gateway", g.Name, "id", g.Node)
	tokens, err := n.store.Tokens()
	if err != nil {
		return api.Eviction{}, err
	}
	for _, t := range tokens {
		if t.Issuer == g.Node && !t.Revoked {
			if err := n.store.RevokeToken(ctx, t.ID); err != nil && !errors.Is(err, cluster.ErrNotFound) {
				return api.Eviction{}, err
			}
		}
	}
	v, _, err := n.store.Evicted(g.Node)
	if err != nil {
		return api.Eviction{}, err
	}
	return n.eviction(v)
}

// findEvicted finds an eviction by the name or the id of the gateway.
func (n *Node) findEvicted(ref string) (cluster.Eviction, bool) {
	all, err := n.store.Evictions()
	if err != nil {
		return cluster.Eviction{}, false
	}
	i := slices.IndexFunc(all, func(v cluster.Eviction) bool { return v.Name == ref || v.Node.String() == ref })
	if i < 0 {
		return cluster.Eviction{}, false
	}
	return all[i], true
}

// ListEvictions implements [api.Evictions].
func (n *Node) ListEvictions(context.Context) ([]api.Eviction, error) {
	if _, err := n.running(); err != nil {
		return nil, err
	}
	all, err := n.store.Evictions()
	out := make([]api.Eviction, 0, len(all))
	for _, v := range all {
		e, err := n.eviction(v)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, err
}

// eviction adds to an eviction what is to be looked at.
func (n *Node) eviction(v cluster.Eviction) (api.Eviction, error) {
	names, err := n.gatewayNames()
	if err != nil {
		return api.Eviction{}, err
	}
	written, err := n.store.Writings(v.Node, v.At.Add(-reviewed))
	if err != nil {
		return api.Eviction{}, err
	}
	suspended, err := n.suspended()
	if err != nil {
		return api.Eviction{}, err
	}
	tokens, err := n.store.Tokens()
	if err != nil {
		return api.Eviction{}, err
	}
	users, err := n.store.Users()
	if err != nil {
		return api.Eviction{}, err
	}
	e := api.Eviction{
		Name: v.Name, ID: v.Node.String(), At: v.At.Truncate(time.Second), By: cmp.Or(names[v.By], v.By.String()),
		Written: []api.Written{}, Suspended: []api.Waiting{}, Exposed: exposed(), Passwords: []string{},
	}
	for _, u := range users {
		if u.Stale || u.Suspended {
			e.Passwords = append(e.Passwords, u.Name)
		}
	}
	for _, w := range written {
		e.Written = append(e.Written, api.Written{
			Kind: w.Ref.Kind, Name: w.Name, ID: w.Ref.ID, Fields: w.Fields, At: w.At.Truncate(time.Second), Beyond: w.Beyond,
		})
	}
	for _, a := range suspended {
		_, known, err := n.store.Evicted(a.Sponsor)
		if err != nil {
			return api.Eviction{}, err
		}
		if a.Sponsor == v.Node || !known { // whoever let them in came by an evicted one
			e.Suspended = append(e.Suspended, api.Waiting{Name: a.Name, ID: cluster.NodeOf(a.Key).String()})
		}
	}
	for _, t := range tokens {
		if t.Issuer == v.Node && t.Revoked {
			e.Tokens++
		}
	}
	return e, nil
}

// exposed is what every gateway knows.
func exposed() []api.Exposure {
	return []api.Exposure{
		{What: "cluster key, and with it all join tokens", Remedy: "replaced; make new tokens", Done: true},
		{What: "gossip key", Remedy: "replaced", Done: true},
		{
			What: "WireGuard private key of the cluster",
			Remedy: "that gateway can answer devices that reach it: take its address away from it; " +
				"devices get another key only with a new cluster",
		},
		{What: "hashes of the administrators' passwords", Remedy: "`gatemesh user password NAME` for each"},
		{What: "preshared keys of the devices", Remedy: "`gatemesh device rekey`, those of most worth first"},
		{What: "names, addresses and settings", Remedy: "nothing can take them back"},
	}
}

// ReadmitGateway implements [api.Evictions].
func (n *Node) ReadmitGateway(ctx context.Context, ref string) (api.Readmitted, error) {
	p, err := n.running()
	if err != nil {
		return api.Readmitted{}, err
	}
	suspended, err := n.suspended()
	if err != nil {
		return api.Readmitted{}, err
	}
	a, err := findWaiting(suspended, ref)
	if err != nil {
		return api.Readmitted{}, err
	}
	now := n.cfg.Now()
	err = n.store.Admit(ctx, cluster.Admission{
		Key: a.Key, Name: a.Name, Sponsor: n.self, At: now,
		Statement: cluster.SignAdmission(n.key, p.facts.cluster, a.Key, now),
	})
	if err != nil {
		return api.Readmitted{}, err
	}
	return api.Readmitted{Name: a.Name, ID: cluster.NodeOf(a.Key).String()}, nil
}

// findWaiting returns the one whose name or id is ref, or else the one whose id begins with it.
func findWaiting(all []cluster.Admission, ref string) (cluster.Admission, error) {
	id := func(a cluster.Admission) string { return cluster.NodeOf(a.Key).String() }
	those := func(is func(cluster.Admission) bool) []cluster.Admission {
		return slices.DeleteFunc(slices.Clone(all), func(a cluster.Admission) bool { return !is(a) })
	}
	found := those(func(a cluster.Admission) bool { return a.Name == ref || id(a) == ref })
	if len(found) == 0 && len(ref) >= minGatewayID {
		found = those(func(a cluster.Admission) bool { return strings.HasPrefix(id(a), ref) })
	}
	switch len(found) {
	case 0:
		return cluster.Admission{}, api.Errorf(api.NotFound, "`gatemesh gateway evicted` shows those that wait for it",
			"no gateway called %q waits to be admitted again", ref)
	case 1:
		return found[0], nil
	}
	candidates := []string{}
	for _, a := range found {
		candidates = append(candidates, fmt.Sprintf("%s (%s)", cmp.Or(a.Name, "without a name"), id(a)))
	}
	slices.Sort(candidates)
	return cluster.Admission{}, api.Errorf(api.Ambiguous, "use one of these ids", "%q is ambiguous: %s", ref,
		listed(candidates))
}

// minGatewayID is how many digits of a gateway's id name it.
const minGatewayID = 6

// maxPending bounds how many gateways are remembered that wait to be admitted again.
const maxPending = 64

// waiting is gateways that called here with the word of an evicted one, and of which the store knows nothing. The zero
// value is empty.
type waiting struct {
	mu  sync.Mutex // guards all
	all []cluster.Admission
}

// add remembers one; the oldest goes for lack of room.
func (w *waiting) add(a cluster.Admission) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.all, func(o cluster.Admission) bool { return o.Key.Equal(a.Key) }) {
		return
	}
	if len(w.all) == maxPending {
		w.all = slices.Delete(w.all, 0, 1)
	}
	w.all = append(w.all, a)
}

// suspended returns the gateways whose admission does not stand: those in the store and those that called here.
func (n *Node) suspended() ([]cluster.Admission, error) {
	all, err := n.store.Suspended()
	if err != nil {
		return nil, err
	}
	n.waiting.mu.Lock()
	called := slices.Clone(n.waiting.all)
	n.waiting.mu.Unlock()
	for _, a := range called {
		known, _, err := n.store.Admitted(cluster.NodeOf(a.Key))
		if err != nil {
			return nil, err
		}
		if known.Key == nil {
			all = append(all, a)
		}
	}
	return all, nil
}
