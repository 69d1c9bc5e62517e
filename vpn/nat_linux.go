package vpn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"sigs.k8s.io/knftables"
)

// nftTimeout bounds one call of nft, which takes milliseconds.
const nftTimeout = 30 * time.Second

// nat is the nft table of one interface:
//
//	table inet gatemesh0 {
//		chain forward {
//			type filter hook forward priority mangle;
//			oifname "gatemesh0" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
//			iifname "gatemesh0" tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
//		}
//		chain postrouting {
//			type nat hook postrouting priority srcnat;
//			ip saddr 100.64.0.0/10 oifname != "gatemesh0" masquerade
//		}
//	}
//
// "rt mtu" is the lesser of the two directions' route MTUs less the headers, so
// both SYN and SYN-ACK keep to the tunnel's; nft never raises a segment size.
type nat struct {
	name  string // of the interface
	table string
	nft   knftables.Interface
}

// tableOf returns the name of an interface's table.
func tableOf(name string) string {
	if strings.HasPrefix(name, "gatemesh") {
		return name
	}
	return "gatemesh-" + name
}

// newNAT changes nothing; it finds nft.
func newNAT(name string) (*nat, error) {
	n := &nat{name: name, table: tableOf(name)}
	var err error
	n.nft, err = knftables.New(knftables.InetFamily, n.table)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: no program nft in PATH (install nftables 1.0.1 or later)", ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("find nft: %w", nftError{err})
	}
	return n, nil
}

// install writes the table in one transaction; a table of that name is replaced.
func (n *nat) install(masquerade []netip.Prefix) error {
	tx := n.nft.NewTransaction()
	n.replace(tx)
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("gatemesh: removed when the gateway stops")})

	tx.Add(&knftables.Chain{
		Name:     "forward",
		Type:     knftables.PtrTo(knftables.FilterType),
		Hook:     knftables.PtrTo(knftables.ForwardHook),
		Priority: knftables.PtrTo(knftables.ManglePriority),
	})
	for _, direction := range []string{"oifname", "iifname"} {
		tx.Add(&knftables.Rule{Chain: "forward", Rule: knftables.Concat(
			direction, quoted(n.name), "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu",
		)})
	}

	tx.Add(&knftables.Chain{
		Name:     "postrouting",
		Type:     knftables.PtrTo(knftables.NATType),
		Hook:     knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority),
	})
	for _, p := range masquerade {
		family := "ip6"
		if p.Addr().Is4() {
			family = "ip"
		}
		tx.Add(&knftables.Rule{Chain: "postrouting", Rule: knftables.Concat(
			family, "saddr", p.Masked(), "oifname !=", quoted(n.name), "masquerade",
		)})
	}
	if err := n.run(tx); err != nil {
		return fmt.Errorf("write nft table %s: %w", n.table, err)
	}
	return nil
}

// remove deletes the table; that it is gone already is no error.
func (n *nat) remove() error {
	tx := n.nft.NewTransaction()
	n.replace(tx)
	if err := n.run(tx); err != nil {
		return fmt.Errorf("delete nft table %s: %w", n.table, err)
	}
	return nil
}

// replace deletes the table whether it exists or not. (nft destroy needs 1.0.8.)
func (n *nat) replace(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
}

func (n *nat) run(tx *knftables.Transaction) error {
	ctx, cancel := context.WithTimeout(context.Background(), nftTimeout)
	defer cancel()
	if err := n.nft.Run(ctx, tx); err != nil {
		return nftError{err}
	}
	return nil
}

// nftError shows the first line of what nft said; the others repeat the input.
type nftError struct{ err error }

func (e nftError) Error() string {
	line, _, _ := strings.Cut(e.err.Error(), "\n")
	return line
}

func (e nftError) Unwrap() error { return e.err }

func quoted(name string) string { return `"` + name + `"` }
