package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// maxJoinHosts bounds the prefixes from which gateways may join.
const maxJoinHosts = 64

// settingHelp says what the administrators' settings are for, and what stands for the empty value.
var settingHelp = map[string]struct{ meaning, empty string }{
	cluster.SettingJoins:        {"may further gateways join: on or off", ""},
	cluster.SettingJoinHosts:    {"prefixes from which gateways may join", "any"},
	cluster.SettingMaxInstances: {"how many gateways may serve", "none"},
	cluster.SettingAuditLevel:   {"what the audit records: all, security or off", ""},
	cluster.SettingAuditDays:    {"days for which it is kept", ""},
}

// parseHosts reads prefixes and addresses between white space or commas.
func parseHosts(s string) (out []netip.Prefix, err error) {
	for _, f := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		p, err := parseHost(f)
		if err != nil {
			return nil, fmt.Errorf("%q is no prefix such as 192.0.2.0/24", f)
		}
		out = append(out, p)
	}
	if len(out) > maxJoinHosts {
		return nil, fmt.Errorf("%d prefixes are more than %d", len(out), maxJoinHosts)
	}
	return out, nil
}

func checkHosts(s string) error {
	if _, err := parseHosts(s); err != nil {
		return fmt.Errorf("is %q; %w", s, err)
	}
	return nil
}

// orNone permits the empty value, too.
func orNone(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

// joinRules reads who may join. Hosts that cannot be read permit nobody new.
func (n *Node) joinRules() (r joinRules, err error) {
	joins, err := n.setting(cluster.SettingJoins)
	if err != nil {
		return r, err
	}
	hosts, err := n.setting(cluster.SettingJoinHosts)
	if err != nil {
		return r, err
	}
	if r.hosts, err = parseHosts(hosts); err != nil {
		return r, fmt.Errorf("setting %s: %w", cluster.SettingJoinHosts, err)
	}
	r.open = joins != "off"
	r.limit, err = n.maxInstances()
	return r, err
}

// maxInstances returns how many gateways may serve; 0: any number.
func (n *Node) maxInstances() (int, error) {
	text, err := n.setting(cluster.SettingMaxInstances)
	if err != nil || text == "" {
		return 0, err
	}
	return cluster.ParseMaxInstances([]byte(text))
}

// countInstances finds out whether this gateway is one of those that may serve. One that is not gives its devices away
// and takes none. It does not block.
func (n *Node) countInstances(p *parts) {
	limit, err := n.maxInstances()
	admissions, err2 := n.store.Admissions()
	if err = cmp.Or(err, err2); err != nil {
		n.log.Error("count instances", "err", err)
		return
	}
	members := make([]cluster.Instance, len(admissions))
	for i, a := range admissions {
		members[i] = cluster.Instance{Node: cluster.NodeOf(a.Key), At: a.At, Limit: a.Limit}
	}
	surplus := !slices.Contains(cluster.Serving(members, limit), n.self)
	if p.ready.surplus.Swap(surplus) == surplus {
		return
	}
	if surplus {
		n.log.Warn("there are more gateways than max-instances permits, and this one was admitted last: it takes no devices",
			"instances", len(members), "max", limit)
		p.rouseLeaving()
		return
	}
	n.log.Info("one of the gateways that may serve again")
}

// notReady says why this gateway takes no devices; "" if it does, or is starting.
func (n *Node) notReady(p *parts) string {
	switch {
	case p.ready.broken.Load():
		return "its data path does not work"
	case p.ready.surplus.Load():
		return "there are more gateways than max-instances permits, and this one was admitted last"
	}
	return ""
}

// ListSettings implements [api.Settings].
func (n *Node) ListSettings(context.Context) ([]api.Setting, error) {
	if _, err := n.running(); err != nil {
		return nil, err
	}
	out := make([]api.Setting, 0, len(adminSettings))
	for _, name := range slices.Sorted(maps.Keys(adminSettings)) {
		v, err := n.setting(name)
		if err != nil {
			return nil, err
		}
		help := settingHelp[name]
		out = append(out, api.Setting{
			Name: name, Value: v, Default: adminSettings[name].def, Empty: help.empty,
			Meaning: help.meaning,
		})
	}
	return out, nil
}

// ChangeSettings implements [api.Settings].
func (n *Node) ChangeSettings(ctx context.Context, want map[string]string) (api.ConfigApplied, error) {
	out := api.ConfigApplied{Changes: []api.ConfigChange{}}
	if _, err := n.running(); err != nil {
		return out, err
	}
	for name, v := range want {
		if help, ok := settingHelp[name]; ok && help.empty != "" && v == help.empty {
			want[name] = ""
		}
	}
	settings, changes, err := n.wantedSettings(want)
	if err != nil || len(settings) == 0 {
		return out, err
	}
	if err := done(n.store.SetSettings(once(ctx, 0), settings)); err != nil {
		return out, apiError("", err)
	}
	n.log.Info("settings changed", "changes", len(changes))
	out.Changes = changes
	return out, nil
}
