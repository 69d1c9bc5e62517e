package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// ListConflicts implements [api.Conflicts].
func (n *Node) ListConflicts(context.Context) ([]api.Conflict, error) {
	if _, err := n.running(); err != nil {
		return nil, err
	}
	names, err := n.gatewayNames()
	if err != nil {
		return nil, err
	}
	all, err := n.store.Conflicts()
	out := make([]api.Conflict, 0, len(all))
	for _, c := range all {
		out = append(out, conflict(c, names))
	}
	return out, err
}

// ResolveConflict implements [api.Conflicts].
func (n *Node) ResolveConflict(ctx context.Context, id string, r api.Resolution) (api.Conflict, error) {
	if _, err := n.running(); err != nil {
		return api.Conflict{}, err
	}
	if r.Take != api.TakeWinner && r.Take != api.TakeOther {
		return api.Conflict{}, api.Errorf(api.Invalid, "take winner or other", "%q is no side of a conflict", r.Take)
	}
	names, err := n.gatewayNames()
	if err != nil {
		return api.Conflict{}, err
	}
	c, err := n.store.ResolveConflict(once(ctx, 0), id, r.Take == api.TakeOther)
	err = done(err)
	var choice *cluster.ChoiceError
	var exists *cluster.ExistsError
	switch {
	case errors.As(err, &choice):
		return api.Conflict{}, api.Errorf(api.Invalid, choice.Advice, "%v", choice)
	case errors.As(err, &exists):
		return api.Conflict{}, api.Errorf(api.Exists, "rename that device first, or take the winner", "%v", err)
	case errors.Is(err, cluster.ErrNotFound):
		return api.Conflict{}, api.Errorf(api.NotFound, "`gatemesh conflicts` lists those there are", "no conflict has an id that begins with %q", id)
	case err != nil:
		return api.Conflict{}, apiError(id, err)
	}
	n.log.Info("conflict resolved", "id", c.ID, "kind", c.Ref.Kind, "object", c.Ref.ID, "field", c.Field, "take", r.Take)
	return conflict(c, names), nil
}

// conflict is a conflict for people. Secrets stay here.
func conflict(c cluster.Conflict, names map[cluster.Node]string) api.Conflict {
	out := api.Conflict{
		ID: c.ID, Reason: string(c.Reason), Kind: c.Ref.Kind, Object: c.Ref.ID, Name: c.Name, Field: c.Field, IDs: c.IDs,
	}
	switch {
	case c.Ref.Kind == "setting":
		out.Name = c.Ref.ID
		c.Stands.Secret = !cluster.PublicSetting(c.Ref.ID)
		c.Other.Secret = c.Stands.Secret
	case out.Name == "":
		out.Name = c.Ref.ID
	}
	out.Stands, out.Other = side(c.Stands, names), side(c.Other, names)
	return out
}

func side(s cluster.Side, names map[cluster.Node]string) api.Side {
	out := api.Side{Value: s.Text, Secret: s.Secret}
	if s.Secret {
		out.Value = ""
	}
	if s.Node.IsZero() {
		return out
	}
	out.Gateway, out.At = cmp.Or(names[s.Node], s.Node.String()), &s.At
	return out
}

// ListAddresses implements [api.Addresses].
func (n *Node) ListAddresses(context.Context) ([]api.Address, error) {
	if _, err := n.running(); err != nil {
		return nil, err
	}
	names, err := n.gatewayNames()
	if err != nil {
		return nil, err
	}
	claims, err := n.store.Contested()
	if err != nil {
		return nil, err
	}
	contested := map[netip.Addr]bool{}
	out := []api.Address{}
	for _, c := range claims {
		contested[c.Address] = true
		why := "its claim is the oldest"
		if !c.Keeps {
			why = "an older claim keeps the address; another one is on its way"
		}
		why += fmt.Sprintf(" (%s, by %s)", c.At.Format(time.RFC3339), cmp.Or(names[c.By], c.By.String()))
		out = append(out, api.Address{
			Address: c.Address.String(), Device: c.Name, ID: cluster.KeyString(c.Device), Keeps: c.Keeps, Contested: true, Why: why,
		})
	}
	for d, err := range n.store.Devices() {
		if err != nil {
			return nil, err
		}
		for _, a := range d.Addresses {
			if contested[a] {
				continue
			}
			out = append(out, api.Address{
				Address: a.String(), Device: d.Name, ID: cluster.KeyString(d.Key), Keeps: true, Why: "nobody else claims it",
			})
		}
	}
	slices.SortStableFunc(out, func(a, b api.Address) int {
		x, _ := netip.ParseAddr(a.Address)
		y, _ := netip.ParseAddr(b.Address)
		return cmp.Or(x.Compare(y), cmp.Compare(b2i(b.Keeps), b2i(a.Keeps)), strings.Compare(a.ID, b.ID))
	})
	return out, nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
