package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"slices"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

var _ api.Service = (*Node)(nil)

// clusterName is how a cluster is shown: the first half of its id.
func clusterName(id [16]byte) string { return hex.EncodeToString(id[:8]) }

// running returns the parts, or a refusal while the cluster is not known yet.
func (n *Node) running() (*parts, error) {
	p := n.live.Load()
	if p == nil {
		return nil, api.Errorf(api.Unavailable, "wait until `gatemesh status` says that it is ready", "the gateway is still starting")
	}
	return p, nil
}

// Status implements [api.Clusters].
func (n *Node) Status(context.Context) (api.Status, error) {
	p, err := n.running()
	if err != nil {
		return api.Status{}, err
	}
	s := api.Status{
		Cluster: clusterName(p.facts.cluster), Gateway: n.offers().Name, ID: n.self.String(), Ready: p.ready.Load(),
		NotReady: n.notReady(p), Gateways: 1,
		Devices: n.store.CountDevices(), Sessions: p.vpn.Count(), Dataplane: p.plane,
		PublicKey: cluster.KeyString(p.pub), Pool: p.facts.pool.String(), Version: n.cfg.Version,
		AuthFailures: p.vpn.Stats().Forged, Disk: n.disk(), Twins: n.twinsSeen(p),
		Role: roleOf(n.offers().Standby), Protocol: protocolText(), Format: cluster.Format, Older: []string{},
	}
	older, err := n.store.Older(cluster.Format)
	if err != nil {
		return api.Status{}, err
	}
	for _, a := range older {
		s.Older = append(s.Older, a.Name)
	}
	for _, m := range p.mesh.Members() {
		if m.Status == mesh.Alive {
			s.Gateways++
			r, _ := p.peers.report(cluster.Node(m.ID))
			s.Sessions += r.Sessions
		}
	}
	return s, nil
}

// ClusterKey implements [api.Clusters].
func (n *Node) ClusterKey(ctx context.Context) (api.ClusterKey, error) {
	if _, err := n.running(); err != nil {
		return api.ClusterKey{}, err
	}
	n.note(ctx, "show", "cluster key")
	key, err := n.clusterKey()
	if err != nil {
		return api.ClusterKey{}, err
	}
	return api.ClusterKey{Key: key.String()}, nil
}

// apiError turns what the store refuses into words.
func apiError(ref string, err error) error {
	var ambiguous *cluster.AmbiguousError
	var exists *cluster.ExistsError
	var name *cluster.NameError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrNotFound):
		return api.Errorf(api.NotFound, "`gatemesh device list` shows those there are", "no device is called %q", ref)
	case errors.As(err, &ambiguous):
		e := api.Errorf(api.Ambiguous, "use one of these ids instead of the name", "%q is ambiguous:", ref)
		for _, id := range ambiguous.IDs {
			e.Message += " " + id
		}
		return e
	case errors.As(err, &exists):
		return api.Errorf(api.Exists, "choose another, or remove the old device first", "%v", err)
	case errors.As(err, &name):
		return api.Errorf(api.Invalid, "use letters, digits, '-', '_' and '.', 63 at most", "%v", err)
	case errors.Is(err, cluster.ErrTooLarge):
		return api.Errorf(api.Invalid, "make it smaller", "%v", err)
	case errors.Is(err, cluster.ErrPoolFull):
		return api.Errorf(api.Unavailable, "remove devices that are gone; the pool's size is fixed at the cluster's beginning", "%v", err)
	}
	return err
}

func sortDevices(ds []api.Device) {
	slices.SortFunc(ds, func(a, b api.Device) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
}
