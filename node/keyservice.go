package node

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// KeyRing implements [api.Keys].
func (n *Node) KeyRing(context.Context) (api.KeyRing, error) {
	p, err := n.running()
	if err != nil {
		return api.KeyRing{}, err
	}
	r, err := n.store.Ring()
	if err != nil {
		return api.KeyRing{}, err
	}
	names, err := n.gatewayNames()
	if err != nil {
		return api.KeyRing{}, err
	}
	members, err := n.memberNodes()
	if err != nil {
		return api.KeyRing{}, err
	}
	present := n.present(p)
	out := api.KeyRing{Gateway: n.offers().Name, Keys: []api.Key{}, Status: []api.KeyStatus{}}
	for _, kind := range cluster.KeyKinds {
		t := cluster.NextTurn(&r, kind, n.self, members, func(m cluster.Node) bool { return present[m] })
		s := api.KeyStatus{Kind: string(kind), Turning: len(t.Hold) > 1, Waits: []api.KeyWait{}}
		for _, m := range t.Waits {
			s.Waits = append(s.Waits, api.KeyWait{Name: names[m], ID: m.String(), Present: present[m]})
		}
		out.Status = append(out.Status, s)
		state := api.KeyNew
		for _, k := range t.Hold {
			if k.ID == t.Use {
				state = api.KeyInUse
			}
			out.Keys = append(out.Keys, showKey(k, state, &r, members, names))
			if k.ID == t.Use {
				state = api.KeyOld
			}
		}
	}
	return out, nil
}

func showKey(k cluster.RingKey, state string, r *cluster.Ring, members []cluster.Node, names map[cluster.Node]string) api.Key {
	out := api.Key{
		Kind: string(k.Kind), ID: k.ID.String(), State: state, Of: len(members), Urgent: k.Urgent, Behind: []string{},
	}
	if k.Generation > 0 {
		made := k.Made.Truncate(time.Second)
		out.Made, out.By = &made, cmp.Or(names[k.By], k.By.String())
	}
	for _, m := range k.Behind {
		out.Behind = append(out.Behind, cmp.Or(names[m], m.String()))
	}
	for _, m := range members {
		h, said := r.Held[m][k.Kind]
		if slices.Contains(h.Holds, k.ID) || !said && k.Generation == 0 {
			out.Held++
		}
		if h.Uses == k.ID || !said && k.Generation == 0 {
			out.Used++
		}
	}
	return out
}

// RotateKey implements [api.Keys].
func (n *Node) RotateKey(ctx context.Context, kind string, q api.Rotation) (api.KeyRing, error) {
	if _, err := n.running(); err != nil {
		return api.KeyRing{}, err
	}
	k := cluster.KeyKind(kind)
	if !slices.Contains(cluster.KeyKinds, k) {
		return api.KeyRing{}, api.Errorf(api.Invalid, "name gossip or cluster", "there are no keys of kind %q", kind)
	}
	members, err := n.memberNodes()
	if err != nil {
		return api.KeyRing{}, err
	}
	var behind []cluster.Node
	for _, ref := range q.Behind {
		g, err := n.store.FindGateway(ref)
		if err != nil {
			return api.KeyRing{}, gatewayError(ref, err)
		}
		if g.Node == n.self || !slices.Contains(members, g.Node) {
			hint := "name another member that is away; `gatemesh keys status` shows who is waited for"
			return api.KeyRing{}, api.Errorf(api.Invalid, hint, "%s cannot be left behind", g.Name)
		}
		behind = append(behind, g.Node)
	}
	r, err := n.store.Ring()
	if err != nil {
		return api.KeyRing{}, err
	}
	if held := r.Of(k); len(behind) > 0 && len(held) > 1 {
		err = n.store.LeaveBehind(ctx, held[0].ID, behind...)
	} else {
		_, err = n.store.RotateKey(ctx, k, false, behind...)
	}
	var limit *cluster.LimitError
	if errors.As(err, &limit) {
		hint := "wait for the gateways that `gatemesh keys status` names, or leave them behind with --force"
		return api.KeyRing{}, api.Errorf(api.Unavailable, hint, "%d %s keys hold already", cluster.MaxKeys, kind)
	}
	if err != nil {
		return api.KeyRing{}, err
	}
	return n.KeyRing(ctx)
}
