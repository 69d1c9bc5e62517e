package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sync/errgroup"

	"gatemesh/cluster"
	"gatemesh/mesh"
	"gatemesh/node/api"
)

const (
	// deviceKeepalive is the persistent keepalive that devices are told, in
	// seconds: what keeps a NAT open.
	deviceKeepalive = 25
	// askTimeout bounds the wait for a peer's counters.
	askTimeout = time.Second
	askAgain   = 50 * time.Millisecond
)

// ListDevices implements [api.Devices].
func (n *Node) ListDevices(ctx context.Context) ([]api.Device, error) {
	p, err := n.running()
	if err != nil {
		return nil, err
	}
	names, err := n.gatewayNames()
	if err != nil {
		return nil, err
	}
	l := n.ask(ctx, p)
	out := make([]api.Device, 0, n.store.CountDevices())
	for d, err := range n.store.Devices() {
		if err != nil {
			return nil, err
		}
		out = append(out, n.device(p, d, names, l))
	}
	sortDevices(out)
	return out, nil
}

// ShowDevice implements [api.Devices].
func (n *Node) ShowDevice(ctx context.Context, ref string) (api.Device, error) {
	p, err := n.running()
	if err != nil {
		return api.Device{}, err
	}
	d, err := n.store.FindDevice(ref)
	if err != nil {
		return api.Device{}, apiError(ref, err)
	}
	names, err := n.gatewayNames()
	if err != nil {
		return api.Device{}, err
	}
	return n.device(p, d, names, n.ask(ctx, p)), nil
}

// AddDevice implements [api.Devices].
func (n *Node) AddDevice(ctx context.Context, d api.NewDevice) (api.Enrolment, error) {
	if _, err := n.running(); err != nil {
		return api.Enrolment{}, err
	}
	key, err := parseDeviceKey(d.PublicKey)
	if err != nil {
		return api.Enrolment{}, err
	}
	added, err := n.store.AddDevice(once(ctx, 0), d.Name, key)
	if errors.Is(err, cluster.ErrRepeated) {
		added, err = n.store.Device(key)
	}
	if err != nil {
		return api.Enrolment{}, apiError(d.Name, err)
	}
	n.log.Info("device added", "device", added.Name, "addresses", added.Addresses)
	return n.enrolment(added)
}

// ChangeDevice implements [api.Devices].
func (n *Node) ChangeDevice(ctx context.Context, ref string, c api.DeviceChange) (api.Device, error) {
	if _, err := n.running(); err != nil {
		return api.Device{}, err
	}
	d, err := n.findOnce(ctx, ref)
	if errors.Is(err, cluster.ErrRepeated) && c.Name != nil { // it has its new name
		d, err = n.store.FindDevice(*c.Name)
	}
	if err == nil && c.Name != nil && *c.Name != d.Name {
		err = done(n.store.RenameDevice(once(ctx, 0), d.Key, *c.Name))
	}
	if err == nil && c.Enabled != nil && *c.Enabled != d.Enabled {
		err = done(n.store.EnableDevice(once(ctx, 1), d.Key, *c.Enabled))
	}
	if err != nil {
		return api.Device{}, apiError(ref, err)
	}
	return n.ShowDevice(ctx, cluster.KeyString(d.Key))
}

// RekeyDevice implements [api.Devices].
func (n *Node) RekeyDevice(ctx context.Context, ref string, k api.NewKey) (api.Enrolment, error) {
	if _, err := n.running(); err != nil {
		return api.Enrolment{}, err
	}
	key, err := parseDeviceKey(k.PublicKey)
	if err != nil {
		return api.Enrolment{}, err
	}
	d, err := n.findOnce(ctx, ref)
	if err == nil {
		d, err = n.store.RekeyDevice(once(ctx, 0), d.Key, key)
	}
	if errors.Is(err, cluster.ErrRepeated) {
		d, err = n.store.Device(key)
	}
	if err != nil {
		return api.Enrolment{}, apiError(ref, err)
	}
	return n.enrolment(d)
}

// RemoveDevice implements [api.Devices].
func (n *Node) RemoveDevice(ctx context.Context, ref string) error {
	if _, err := n.running(); err != nil {
		return err
	}
	d, err := n.findOnce(ctx, ref)
	if err == nil {
		err = n.store.RemoveDevice(once(ctx, 0), d.Key)
	}
	if errors.Is(err, cluster.ErrRepeated) {
		return nil
	}
	if err != nil {
		return apiError(ref, err)
	}
	n.log.Info("device removed", "device", d.Name)
	return nil
}

func parseDeviceKey(s string) (cluster.Key, error) {
	k, err := cluster.ParseKey(s)
	if err != nil {
		return k, api.Errorf(api.Invalid, "give the 44 characters that `wg pubkey` prints", "%q is not a WireGuard public key", s)
	}
	return k, nil
}

// enrolment is what a device is told.
func (n *Node) enrolment(d cluster.Device) (api.Enrolment, error) {
	p, err := n.running()
	if err != nil {
		return api.Enrolment{}, err
	}
	return api.Enrolment{
		Device:    n.device(p, d, nil, live{}),
		PublicKey: cluster.KeyString(p.pub),
		Endpoint:  n.offers().Public,
		Keepalive: deviceKeepalive,
	}, nil
}

// gatewayNames maps ids to names.
func (n *Node) gatewayNames() (map[cluster.Node]string, error) {
	gateways, err := n.store.Gateways()
	if err != nil {
		return nil, err
	}
	gone, err := n.store.Evictions()
	if err != nil {
		return nil, err
	}
	names := make(map[cluster.Node]string, len(gateways))
	for _, v := range gone {
		names[v.Node] = v.Name
	}
	for _, g := range gateways {
		names[g.Node] = g.Name
	}
	return names, nil
}

// live is what the gateways say of their sessions at one moment.
type live struct {
	counters map[cluster.Key]counters
	answered map[cluster.Node]bool
}

// device joins what the store, the session table and the gateways' counters
// say of a device. Where its gateway has not answered the table must do.
func (n *Node) device(p *parts, d cluster.Device, names map[cluster.Node]string, l live) api.Device {
	out := api.Device{Name: d.Name, ID: cluster.KeyString(d.Key), Enabled: d.Enabled, Addresses: []string{}}
	for _, a := range d.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	owner, owned := p.sessions.Owner(d.Key)
	c, connected := l.counters[d.Key]
	handshake := owner.Handshake
	if c.Handshake.After(handshake) {
		handshake = c.Handshake
	}
	if !connected && owned && !l.answered[owner.Owner] && p.peers.isAlive(owner.Owner) {
		connected, c.Endpoint = true, owner.Endpoint
	}
	if connected && owned {
		out.Gateway, out.Endpoint = names[owner.Owner], c.Endpoint.String()
	}
	out.RxBytes, out.TxBytes = c.Rx, c.Tx
	if !handshake.IsZero() {
		handshake = handshake.UTC().Truncate(time.Second)
		out.LastHandshake = &handshake
	}
	return out
}

// ask asks every gateway alive for the counters of its sessions. One that does
// not answer in time is left out.
func (n *Node) ask(ctx context.Context, p *parts) live {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	members := p.mesh.Members()
	answers := make([][]counters, len(members))
	errs := make([]error, len(members))
	var g errgroup.Group
	for i, m := range members {
		if errs[i] = mesh.ErrNotLinked; m.Linked {
			g.Go(func() error {
				answers[i], errs[i] = askCounters(ctx, p, m.ID)
				if errors.Is(errs[i], mesh.ErrNotLinked) && sleep(ctx, askAgain) == nil { // links are replaced at times
					answers[i], errs[i] = askCounters(ctx, p, m.ID)
				}
				return nil
			})
		}
	}
	_ = g.Wait()
	l := live{counters: map[cluster.Key]counters{}, answered: map[cluster.Node]bool{n.self: true}}
	for _, s := range p.vpn.Sessions() {
		if s.Confirmed {
			l.counters[s.Device] = counters{s.Device, s.Endpoint, s.Handshake, s.RxBytes, s.TxBytes}
		}
	}
	for i, m := range members {
		if errs[i] != nil {
			n.log.Debug("no counters from a gateway", "id", m.ID, "err", errs[i])
			continue
		}
		l.answered[cluster.Node(m.ID)] = true
		for _, c := range answers[i] {
			if old, ok := l.counters[c.Device]; !ok || c.Handshake.After(old.Handshake) {
				l.counters[c.Device] = c
			}
		}
	}
	return l
}

// askCounters collects the pages of one peer.
func askCounters(ctx context.Context, p *parts, id mesh.ID) (all []counters, err error) {
	var after [32]byte
	for {
		b, err := p.mesh.Call(ctx, id, kindSessions, after[:])
		if err != nil {
			return nil, err
		}
		var page []counters
		if err := cbor.Unmarshal(b, &page); err != nil {
			return nil, fmt.Errorf("counters: %w", err)
		}
		all = append(all, page...)
		if len(page) < countersPage {
			return all, nil
		}
		last := page[len(page)-1].Device
		if bytes.Compare(last[:], after[:]) <= 0 {
			return nil, errors.New("counters do not come in order")
		}
		after = last
	}
}
