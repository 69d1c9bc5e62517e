package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// adminSettings are the settings that administrators set, with what stands
// while they are not set and what they may be.
var adminSettings = map[string]struct {
	def   string
	check func(string) error
}{
	cluster.SettingAuditLevel: {cluster.AuditAll, oneOf(cluster.AuditAll, cluster.AuditSecurity, cluster.AuditOff)},
	cluster.SettingAuditDays:  {strconv.Itoa(cluster.DefaultAuditDays), between(1, 3650)},
	// Not bounded.
	cluster.SettingMaxInstances: {"", orNone(between(1, cluster.MaxInstances))},
	cluster.SettingJoins:        {"on", oneOf("on", "off")},
	cluster.SettingJoinHosts:    {"", checkHosts}, // from anywhere
}

func oneOf(values ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(values, s) {
			return fmt.Errorf("is %q; use one of %s", s, strings.Join(values, ", "))
		}
		return nil
	}
}

func between(low, high int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < low || n > high || strconv.Itoa(n) != s {
			return fmt.Errorf("is %q; use a number from %d to %d", s, low, high)
		}
		return nil
	}
}

// Config implements [api.Configs].
func (n *Node) Config(ctx context.Context, secrets bool) (api.Config, error) {
	if _, err := n.running(); err != nil {
		return api.Config{}, err
	}
	if secrets {
		n.note(ctx, "show", "preshared keys of all devices")
	}
	out := api.Config{Settings: map[string]string{}, Devices: []api.ConfigDevice{}}
	for name := range adminSettings {
		v, err := n.setting(name)
		if err != nil {
			return out, err
		}
		out.Settings[name] = v
	}
	for d, err := range n.store.Devices() {
		if err != nil {
			return out, err
		}
		c := api.ConfigDevice{Name: d.Name, Key: cluster.KeyString(d.Key), Enabled: d.Enabled}
		for _, a := range d.Addresses {
			c.Addresses = append(c.Addresses, a.String())
		}
		if secrets {
			text := pskText(d.PresharedKey)
			c.PresharedKey = &text
		}
		out.Devices = append(out.Devices, c)
	}
	slices.SortFunc(out.Devices, func(a, b api.ConfigDevice) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Key, b.Key))
	})
	return out, nil
}

// setting returns what stands of an administrators' setting.
func (n *Node) setting(name string) (string, error) {
	v, ok, err := n.store.Setting(name)
	if err != nil || ok {
		return string(v), err
	}
	return adminSettings[name].def, nil
}

func pskText(k cluster.Key) string {
	if k == (cluster.Key{}) {
		return ""
	}
	return cluster.KeyString(k)
}

// ApplyConfig implements [api.Configs].
func (n *Node) ApplyConfig(ctx context.Context, a api.ConfigApply) (api.ConfigApplied, error) {
	out := api.ConfigApplied{Changes: []api.ConfigChange{}}
	p, err := n.running()
	if err != nil {
		return out, err
	}
	settings, changes, err := n.wantedSettings(a.Config.Settings)
	if err != nil {
		return out, err
	}
	edits, err := n.wantedDevices(p, a.Config.Devices)
	if err != nil {
		return out, refusedConfig(err)
	}
	var removed []string
	for _, e := range edits {
		changes = append(changes, describe(e))
		if e.New == nil {
			removed = append(removed, e.Old.Name)
		}
	}
	if a.DryRun {
		out.Changes = append(out.Changes, changes...)
		return out, nil
	}
	if len(removed) > 0 && !a.Remove {
		return out, api.Errorf(api.Invalid, "add --remove to remove them, or export the configuration anew",
			"%d devices are not in the file: %s", len(removed), listed(removed))
	}
	done, err := n.store.Carry(ctx, edits, settings)
	if err != nil && done > 0 {
		err = fmt.Errorf("after %d of %d devices: %w", done, len(edits), err)
	}
	if err != nil {
		return out, refusedConfig(err)
	}
	out.Changes = append(out.Changes, changes...)
	n.log.Info("configuration applied", "changes", len(changes))
	return out, nil
}

// listed names a few.
func listed(names []string) string {
	const few = 5
	if len(names) > few {
		return strings.Join(names[:few], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// wantedSettings returns the settings that differ.
func (n *Node) wantedSettings(want map[string]string) (map[string][]byte, []api.ConfigChange, error) {
	settings := map[string][]byte{}
	var changes []api.ConfigChange
	for _, name := range slices.Sorted(maps.Keys(want)) {
		s, ok := adminSettings[name]
		if !ok {
			return nil, nil, api.Errorf(api.Invalid, "there are "+strings.Join(slices.Sorted(maps.Keys(adminSettings)), ", "),
				"there is no setting %q", name)
		}
		if err := s.check(want[name]); err != nil {
			return nil, nil, api.Errorf(api.Invalid, "", "setting %q %v", name, err)
		}
		is, err := n.setting(name)
		if err != nil {
			return nil, nil, err
		}
		if is != want[name] {
			settings[name] = []byte(want[name])
			changes = append(changes, api.ConfigChange{
				What: api.Changed, Object: "setting " + name,
				Fields: []string{cmp.Or(is, "none") + " → " + cmp.Or(want[name], "none")},
			})
		}
	}
	return settings, changes, nil
}

// wantedDevices returns what leads to the devices that are wanted.
func (n *Node) wantedDevices(p *parts, want []api.ConfigDevice) ([]cluster.Edit, error) {
	var have []cluster.Device
	for d, err := range n.store.Devices() {
		if err != nil {
			return nil, err
		}
		have = append(have, d)
	}
	desired := make([]cluster.Desired, len(want))
	for i, w := range want {
		d, err := parseDesired(w)
		if err != nil {
			return nil, err
		}
		desired[i] = d
	}
	return cluster.Plan(have, desired, p.facts.pool, p.facts.ula)
}

func parseDesired(w api.ConfigDevice) (d cluster.Desired, err error) {
	d = cluster.Desired{Name: w.Name, Enabled: w.Enabled}
	if d.Key, err = cluster.ParseKey(w.Key); err != nil {
		return d, api.Errorf(api.Invalid, "give the 44 characters that `wg pubkey` prints",
			"device %q: %q is not a WireGuard public key", w.Name, w.Key)
	}
	for _, s := range w.Addresses {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return d, api.Errorf(api.Invalid, "", "device %q: %q is not an address", w.Name, s)
		}
		d.Addresses = append(d.Addresses, a)
	}
	if w.PresharedKey == nil {
		return d, nil
	}
	d.PresharedKey = new(cluster.Key)
	if *w.PresharedKey == "" {
		return d, nil
	}
	if *d.PresharedKey, err = parsePSK(*w.PresharedKey); err != nil { // the text is a secret
		return d, api.Errorf(api.Invalid, "give the 44 characters that `wg genpsk` prints", "device %q: its preshared key is none", w.Name)
	}
	return d, nil
}

// describe says in words what an edit does, without secrets.
func describe(e cluster.Edit) api.ConfigChange {
	switch {
	case e.New == nil:
		return api.ConfigChange{What: api.Removed, Object: "device " + e.Old.Name}
	case e.Old == nil:
		return api.ConfigChange{What: api.Added, Object: "device " + e.New.Name}
	}
	c := api.ConfigChange{What: api.Changed, Object: "device " + e.Old.Name}
	field := func(name string, differs bool, was, is any) {
		if differs {
			c.Fields = append(c.Fields, fmt.Sprintf("%s: %v → %v", name, was, is))
		}
	}
	field("name", e.Old.Name != e.New.Name, e.Old.Name, e.New.Name)
	field("key", e.Old.Key != e.New.Key, cluster.KeyString(e.Old.Key), cluster.KeyString(e.New.Key))
	missing := slices.ContainsFunc(e.New.Addresses, func(a netip.Addr) bool { return !slices.Contains(e.Old.Addresses, a) })
	field("addresses", missing, e.Old.Addresses, e.New.Addresses)
	field("enabled", e.Old.Enabled != e.New.Enabled, e.Old.Enabled, e.New.Enabled)
	if k := e.New.PresharedKey; k != nil && !bytes.Equal(k[:], e.Old.PresharedKey[:]) {
		c.Fields = append(c.Fields, "preshared key")
	}
	return c
}

// refusedConfig turns what the store refuses into words.
func refusedConfig(err error) error {
	var exists *cluster.ExistsError
	var address *cluster.AddressError
	switch {
	case errors.As(err, &exists):
		return api.Errorf(api.Invalid, "names and keys are unique", "%s %s is in the file twice", exists.Field, exists.Value)
	case errors.As(err, &address):
		return api.Errorf(api.Invalid, "leave its addresses out to have one allocated", "%v", err)
	case errors.Is(err, cluster.ErrChanged):
		return api.Errorf(api.Unavailable, "look at `gatemesh config diff` and apply again", "%v", err)
	}
	return apiError("", err)
}

// PoolConfig implements [api.Configs].
func (n *Node) PoolConfig(ctx context.Context, secrets bool) (api.PoolConfig, error) {
	p, err := n.running()
	if err != nil {
		return api.PoolConfig{}, err
	}
	key := ""
	if secrets {
		n.note(ctx, "show", "cluster key")
		k, err := n.clusterKey()
		if err != nil {
			return api.PoolConfig{}, err
		}
		key = k.String()
	}
	_, port, err := splitPort(n.cfg.Mesh)
	if err != nil {
		return api.PoolConfig{}, err
	}
	return api.PoolConfig{
		Key: key, Join: p.mesh.Addr().String(), Listen: n.cfg.Listen, Mesh: ":" + strconv.Itoa(int(port)),
		Capacity: n.cfg.Capacity, Dataplane: n.cfg.Dataplane, Cluster: clusterName(p.facts.cluster),
	}, nil
}

func parsePSK(s string) (k cluster.Key, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && len(b) != len(k) {
		err = fmt.Errorf("%d bytes", len(b))
	}
	copy(k[:], b)
	return k, err
}
