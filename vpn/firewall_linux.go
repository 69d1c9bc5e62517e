package vpn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// ForwardDrops lists the chains of the host's firewall that drop forwarded packets unless a rule says otherwise, as
// "ip filter FORWARD". Docker and ufw make such; packets of devices need a rule there. It needs the rights of a
// gateway with a TUN device, and returns an error that wraps ErrUnsupported where there is no nft, or
// ErrNoPermission.
func ForwardDrops(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, nftTimeout)
	defer cancel()
	if os.Geteuid() != 0 {
		return nil, ErrNoPermission
	}
	out, err := exec.CommandContext(ctx, "nft", "-j", "list", "chains").Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("%w: no program nft in PATH", ErrUnsupported)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EPERM):
		return nil, ErrNoPermission
	case err != nil:
		return nil, fmt.Errorf("nft list chains: %w", err)
	}
	return forwardDrops(out)
}

// forwardDrops reads what nft -j list chains prints.
func forwardDrops(out []byte) (drops []string, err error) {
	var list struct {
		Nftables []struct {
			Chain *struct{ Family, Table, Name, Hook, Policy string }
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read chains of nft: %w", err)
	}
	for _, e := range list.Nftables {
		if c := e.Chain; c != nil && c.Hook == "forward" && c.Policy == "drop" {
			drops = append(drops, c.Family+" "+c.Table+" "+c.Name)
		}
	}
	return drops, nil
}

// Forwards reports whether the kernel forwards IPv4 and IPv6.
func Forwards() (v4, v6 bool) {
	on := func(key string) bool { v, err := readSysctl(key); return err == nil && v != "0" }
	return on("net/ipv4/ip_forward"), on("net/ipv6/conf/all/forwarding")
}
