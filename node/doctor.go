package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"gatemesh/cluster"
	"gatemesh/node/api"
)

// Examine looks at what can be seen of a gateway that does not run: its data directory, its ports and its host.
func Examine(ctx context.Context, cfg Config) ([]api.Check, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Log}
	all := []api.Check{n.checkDirectory()}
	if f, total, err := cluster.MeasureDisk(existing(cfg.Data)); err == nil {
		c := api.Check{Name: "disk", Result: api.OK, Text: fmt.Sprintf("%d MB free", f/1e6)}
		if low := cluster.LowDisk(total); f < low {
			c.Result, c.Hint = api.Fail, "make room on the volume of "+cfg.Data
			c.Text += fmt.Sprintf(", %d MB needed", low/1e6)
		}
		all = append(all, c)
	}
	c := api.Check{Name: "ports", Result: api.OK, Text: fmt.Sprintf("%s (UDP, devices) and %s (TCP and UDP, gateways) are free", cfg.Listen, cfg.Mesh)}
	if err := n.probePorts(); err != nil {
		c.Result, c.Text = api.Fail, err.Error()
		var known *HintError
		if errors.As(err, &known) {
			c.Hint = known.Hint
		}
	}
	return append(append(all, c), n.checkHost(ctx, n.wantsTUN(), netip.Addr{})...), nil
}

// existing returns the directory, or the next above it that there is.
func existing(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || filepath.Dir(dir) == dir {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// Doctor implements [api.Doctors].
func (n *Node) Doctor(ctx context.Context) ([]api.Check, error) {
	p, err := n.running()
	if err != nil {
		return nil, err
	}
	all := []api.Check{n.checkDirectory(), n.checkRoom(), n.checkPath(p)}
	all = append(all, n.checkGateways(p)...)
	all = append(all, n.checkReach(ctx, p)...)
	all = append(all, n.checkSkew(p), n.checkVersions(), n.checkReplicas(p))
	all = append(all, n.checkLAN(ctx, p)...)
	return append(all, n.checkHost(ctx, p.plane == DataplaneTUN, p.mesh.Addr().Addr())...), nil
}

// checkDirectory looks at who may read what must stay secret.
func (n *Node) checkDirectory() api.Check {
	c := api.Check{Name: "data", Result: api.OK, Text: n.cfg.Data + " is this user's alone"}
	if runtime.GOOS == "windows" {
		c.Text = n.cfg.Data
		return c
	}
	if _, err := os.Stat(n.cfg.Data); errors.Is(err, os.ErrNotExist) {
		c.Text = n.cfg.Data + " will be made"
		return c
	}
	for _, name := range []string{identityFile, "store", "."} {
		path := filepath.Join(n.cfg.Data, name)
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return api.Check{Name: c.Name, Result: api.Fail, Text: err.Error(), Hint: "run this as the gateway's user"}
		case name == "." && info.Mode().Perm()&0o022 != 0:
			return api.Check{
				Name: c.Name, Result: api.Fail, Text: fmt.Sprintf("others may write to %s (mode %#o)", path, info.Mode().Perm()),
				Hint: "chmod 700 " + path,
			}
		case name != "." && info.Mode().Perm()&0o077 != 0:
			return api.Check{
				Name: c.Name, Result: api.Fail, Text: fmt.Sprintf("others may read %s (mode %#o)", path, info.Mode().Perm()),
				Hint: "chmod go= " + path,
			}
		}
	}
	return c
}

func (n *Node) checkRoom() api.Check {
	d := n.disk()
	switch {
	case d.ReadOnly:
		return api.Check{
			Name: "disk", Result: api.Fail,
			Text: fmt.Sprintf("nearly full: %d MB free, %d MB needed; no changes are taken", d.Free/1e6, (d.Needed+1e6-1)/1e6),
			Hint: "make room on the volume of " + n.cfg.Data,
		}
	case d.Free == 0:
		return api.Check{Name: "disk", Result: api.OK, Text: "changes are taken"}
	}
	return api.Check{Name: "disk", Result: api.OK, Text: fmt.Sprintf("%d MB free", d.Free/1e6)}
}

// checkPath says whether devices are taken.
func (n *Node) checkPath(p *parts) api.Check {
	c := api.Check{
		Name: "ports", Result: api.OK,
		Text: fmt.Sprintf("UDP %d serves devices (%s), %s serves gateways", p.vpn.Port(), p.plane, p.mesh.Addr()),
	}
	switch {
	case p.ready.broken.Load():
		c.Result, c.Text, c.Hint = api.Fail, "the data path has failed; no devices are taken",
			"see why in the gateway's log; it is tried again"
	case !p.ready.Load():
		c.Result, c.Text, c.Hint = api.Warn, "the gateway is starting; no devices are taken yet", "wait a moment"
	case p.draining.Load():
		c.Result, c.Text, c.Hint = api.Warn, "the gateway drains; no devices are taken",
			"`gatemesh drain --undo` takes devices again"
	}
	return c
}
