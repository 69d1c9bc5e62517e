package vpn

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const sysctlDir = "/proc/sys/"

// sysctlChange is a setting of the kernel, by its path below /proc/sys, that is
// set to Old where New is found. Its text form is key=old,new.
type sysctlChange struct{ Key, Old, New string }

// MarshalText implements encoding.TextMarshaler.
func (c sysctlChange) MarshalText() ([]byte, error) {
	return []byte(c.Key + "=" + c.Old + "," + c.New), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. It takes only keys of
// net/ipv4 and net/ipv6.
func (c *sysctlChange) UnmarshalText(text []byte) error {
	i := bytes.LastIndexByte(text, '=') // an interface's name may contain one
	if i < 0 || len(text) > 128 {
		return fmt.Errorf("invalid change of a kernel setting %.40q", text)
	}
	key := string(text[:i])
	from, to, comma := strings.Cut(string(text[i+1:]), ",")
	family := strings.HasPrefix(key, "net/ipv4/") || strings.HasPrefix(key, "net/ipv6/")
	if !comma || !family || filepath.Clean(key) != key || !isDigits(from) || !isDigits(to) {
		return fmt.Errorf("invalid change of a kernel setting %.40q", text)
	}
	*c = sysctlChange{key, from, to}
	return nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// forwarding is what switching forwarding on takes.
type forwarding struct {
	set  []sysctlChange // from Old to New, first to last
	undo []sysctlChange // to be reverted, first to last
}

// planForwarding finds out what to change so that the families wanted are
// forwarded. The interface named tun is the gateway's own.
func planForwarding(v4, v6 bool, tun string) (plan forwarding, err error) {
	for _, f := range []struct {
		wanted       bool
		master, conf string
	}{
		{v4, "net/ipv4/ip_forward", "net/ipv4/conf/"},
		{v6, "net/ipv6/conf/all/forwarding", "net/ipv6/conf/"},
	} {
		if !f.wanted {
			continue
		}
		master, err := readSysctl(f.master)
		if err != nil {
			return plan, fmt.Errorf("read forwarding: %w", err)
		}
		if master != "0" {
			continue
		}
		state, err := readConf(f.conf)
		if err != nil {
			return plan, err
		}
		delete(state, f.conf+tun+"/accept_ra")
		p := forwardingPlan(f.master, f.conf, state)
		plan.set = append(plan.set, p.set...)
		plan.undo = append(plan.undo, p.undo...)
	}
	return plan, nil
}

// readConf reads the per-interface settings that forwarding has to do with.
func readConf(conf string) (map[string]string, error) {
	entries, err := os.ReadDir(sysctlDir + conf)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	state := make(map[string]string)
	for _, e := range entries {
		for _, name := range []string{"forwarding", "accept_redirects", "accept_ra"} {
			key := conf + e.Name() + "/" + name
			if value, err := readSysctl(key); err == nil && isDigits(value) { // an interface may vanish meanwhile
				state[key] = value
			}
		}
	}
	return state, nil
}

// forwardingPlan returns how one family's forwarding, which is off, is switched on
// and off again. state holds the settings below conf as they are now.
//
//   - Switching it (devinet.c inet_forward_change, addrconf.c addrconf_forward_change)
//     sets every interface's own forwarding to the same value, and IPv4's
//     all/accept_redirects to the opposite: what differed before is set after.
//   - A host that forwards IPv6 ignores router advertisements and forgets the
//     default routes it has from them, unless accept_ra is 2. This host shall keep
//     its own connection, so 1 becomes 2 for the time.
func forwardingPlan(master, conf string, state map[string]string) (plan forwarding) {
	plan.undo = []sysctlChange{{master, "0", "1"}}
	for _, key := range slices.Sorted(maps.Keys(state)) {
		iface, name, _ := strings.Cut(strings.TrimPrefix(key, conf), "/")
		value := state[key]
		switch {
		case name == "forwarding" && iface != "all" && value != "0":
			plan.undo = append(plan.undo, sysctlChange{key, value, "0"})
		case name == "accept_redirects" && iface == "all" && conf == "net/ipv4/conf/" && value != "1":
			plan.undo = append(plan.undo, sysctlChange{key, value, "1"})
		case name == "accept_ra" && iface != "all" && iface != "lo" && value == "1" && state[conf+iface+"/forwarding"] == "0":
			plan.set = append(plan.set, sysctlChange{key, "1", "2"})
		}
	}
	plan.undo = append(plan.undo, plan.set...)
	plan.set = append(plan.set, sysctlChange{master, "0", "1"})
	return plan
}

// mergeChanges returns a and those of b whose setting a does not name.
func mergeChanges(a, b []sysctlChange) []sysctlChange {
	merged := slices.Clone(a)
	for _, c := range b {
		if !slices.ContainsFunc(merged, func(m sysctlChange) bool { return m.Key == c.Key }) {
			merged = append(merged, c)
		}
	}
	return merged
}

// applyChanges makes the changes. Settings of interfaces that are gone do not count.
func applyChanges(changes []sysctlChange) error {
	for _, c := range changes {
		err := writeSysctl(c.Key, c.New)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("switch forwarding on: %w (or set net.ipv4.ip_forward and net.ipv6.conf.all.forwarding to 1 on the host)", err)
		}
	}
	return nil
}

// revertChanges sets back what is still as we left it, or as the kernel makes it meanwhile.
// Settings of interfaces that are gone do not count.
func revertChanges(changes []sysctlChange) error {
	var errs []error
	for _, c := range changes {
		value, err := readSysctl(c.Key)
		if err == nil && value == c.New {
			err = writeSysctl(c.Key, c.Old)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// ipv6Enabled reports whether the interface may have IPv6 addresses.
func ipv6Enabled(name string) bool {
	disabled, err := readSysctl("net/ipv6/conf/" + name + "/disable_ipv6")
	return err == nil && disabled == "0"
}

func readSysctl(key string) (string, error) {
	b, err := os.ReadFile(sysctlDir + key)
	return strings.TrimSpace(string(b)), err
}

func writeSysctl(key, value string) error {
	f, err := os.OpenFile(sysctlDir+key, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
