package node_test

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"gatemesh/node/labtest"
)

var mdnsGroup = netip.MustParseAddrPort("224.0.0.251:5353")

// TestLabOutsider has two clusters on one LAN, and a host there that hears all
// that is said and says it again: hints as they were, hints that point at
// itself, and the streams by which gateways joined. The clusters never show each
// other, nobody gets in, and who belongs still does.
func TestLabOutsider(t *testing.T) {
	lab := newLab(t)
	ours := []*labtest.Gateway{lab.Gateway("gw1"), lab.Gateway("gw2")}
	theirs, third, late := lab.Gateway("other"), lab.Gateway("gw3"), lab.Gateway("gw4")
	outsider := lab.Node("outsider", labtest.Internet|labtest.LAN, 200)
	hints := outsider.RecordAll(labtest.LAN, mdnsGroup.Port())
	streams := []*labtest.Recording{ours[0].RecordAll(labtest.LAN, meshPort), ours[0].RecordAll(labtest.Internet, meshPort)}

	key := drawKey(lab)
	for _, g := range ours {
		g.Start("--name", g.Name, "--key", key)
	}
	theirs.Start("--name", theirs.Name)
	for _, g := range append(slices.Clone(ours), theirs) {
		g.WaitReady()
	}
	waitOneCluster(lab, ours)
	token := strings.Fields(ours[0].CLI("token", "create", "--quiet"))[0]
	third.Start("--name", third.Name, "--join", token)
	third.WaitReady()
	ours = append(ours, third)
	waitOneCluster(lab, ours)

	heard := responses(hints)
	if len(heard) == 0 {
		t.Fatal("no hint was heard")
	}
	outsider.Multicast(mdnsGroup, heard)
	replayed, answered := 0, 0
	for _, r := range streams {
		for _, s := range r.Streams(meshPort) {
			if len(s) == 0 {
				continue
			}
			replayed++
			answered += again(t, outsider, netip.AddrPortFrom(ours[0].Addr, meshPort), s)
		}
	}
	t.Logf("%d hints and %d streams said again; %d streams answered beyond a handshake", len(heard), replayed, answered)
	if replayed < 2 {
		t.Error("no stream was recorded")
	}
	if answered > 0 {
		t.Error("a stream that was said again was answered")
	}

	// Whoever starts now hears of members at a host that never answers.
	outsider.Silent(meshPort)
	lies := pointing(t, heard, outsider.LAN)
	stop, lied := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(lied)
		for {
			outsider.Multicast(mdnsGroup, lies)
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	started := time.Now()
	late.Start("--name", late.Name, "--key", key)
	late.WaitReady()
	ours = append(ours, late)
	waitOneCluster(lab, ours)
	took := time.Since(started)
	close(stop)
	<-lied
	t.Logf("a gateway that starts beside %d false hints is in its cluster after %v", len(lies), took.Round(time.Millisecond))

	if n := theirs.Status().Gateways; n != 1 {
		t.Errorf("the other cluster counts %d gateways", n)
	}
	for _, g := range ours {
		for _, m := range g.Gateways() {
			if !slices.ContainsFunc(ours, func(o *labtest.Gateway) bool { return o.Name == m.Name }) {
				t.Errorf("%s lists %q", g.Name, m.Name)
			}
		}
		for _, line := range strings.Split(g.Process.Log(), "\n") {
			if strings.Contains(line, theirs.Addr.String()) || strings.Contains(line, theirs.LAN.String()) {
				t.Errorf("%s tells of the other cluster: %s", g.Name, line)
			}
		}
	}
}

// responses are the mDNS responses with a hint among what was recorded.
func responses(r *labtest.Recording) (all [][]byte) {
	for _, p := range r.Packets() {
		var m dnsmessage.Message
		if b := labtest.Payload(p); m.Unpack(b) == nil && m.Response && slices.ContainsFunc(m.Answers, isHint) {
			all = append(all, b)
		}
	}
	return all
}

func isHint(r dnsmessage.Resource) bool {
	return r.Header.Type == dnsmessage.TypeTXT && strings.Contains(r.Header.Name.String(), "_gatemesh")
}

// pointing alters responses so that the hosts in them are at another address.
func pointing(t *testing.T, all [][]byte, at netip.Addr) (altered [][]byte) {
	t.Helper()
	for _, b := range all {
		var m dnsmessage.Message
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		for _, section := range []*[]dnsmessage.Resource{&m.Answers, &m.Additionals} {
			*section = slices.DeleteFunc(*section, func(r dnsmessage.Resource) bool { return r.Header.Type == dnsmessage.TypeAAAA })
			for i := range *section {
				if (*section)[i].Header.Type == dnsmessage.TypeA {
					(*section)[i].Body = &dnsmessage.AResource{A: at.As4()}
				}
			}
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		altered = append(altered, b)
	}
	return altered
}

// again says a recorded stream again and reports whether it is answered with
// more than the records of a TLS handshake and an alert.
func again(t *testing.T, from *labtest.Node, to netip.AddrPort, stream []byte) int {
	t.Helper()
	conn, err := from.Dial(to, 5*time.Second)
	if err != nil {
		t.Errorf("dial: %v", err)
		return 0
	}
	defer conn.Close()
	if _, err := conn.Write(stream); err != nil {
		return 0 // closed already
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	got, err := io.ReadAll(conn)
	if err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error(fmt.Errorf("a stream that was said again is held open: %w", err))
	}
	// ServerHello, the member's certificate and an alert are less than 2 KiB. Gossip that is said again is answered with
	// what only members can read.
	if stream[0] == 0x16 && len(got) > 2<<10 {
		return 1
	}
	return 0
}
