package node_test

import (
	"testing"
	"time"

	"gatemesh/node/labtest"
)

// TestLabLongStream keeps a TCP stream and a ping running through one gateway;
// in the long form for five minutes, over two changes of keys.
func TestLabLongStream(t *testing.T) {
	lab := newLab(t)
	gws := threeGateways(t, lab)
	host := lab.Host("host")
	c := addClients(t, lab, gws[0], 1)[0]
	connect(t, lab, []*labtest.Client{c})
	_, owner := owners(t, gws, []*labtest.Client{c})
	at := gws[owner[c]]

	// At full speed: what a gigabyte costs.
	var table labtest.Table
	table.Row("stream", "Mb/s", "gateway s/GB", "RSS MB", "retransmits")
	for name, flags := range map[string][]string{"up": nil, "down": {"-R"}} {
		before := at.Process.Usage()
		s, err := c.Stream(host, 2*time.Second, flags...)
		if err != nil {
			t.Fatal(err)
		}
		after := at.Process.Usage()
		perGB := (after.CPU - before.CPU).Seconds() / (float64(s.Bytes) / 1e9)
		table.Row(name, int(s.Bits/1e6), perGB, after.RSS>>20, s.Retransmits)
	}
	t.Log(&table)

	// At a rate that leaves room: a ping that is lost is then lost in a tunnel,
	// not in a full queue.
	duration := size(12*time.Second, 5*time.Minute)
	begin := time.Now()
	ping := c.Ping(host.LAN, pingEvery)
	handshakes := watchHandshakes(lab, c, duration)
	s, err := c.Stream(host, duration, "-b", "200M")
	if err != nil {
		t.Fatal(err)
	}
	seen := <-handshakes
	log := ping.Stop()

	gap, _ := log.Gap(begin, time.Now())
	table = labtest.Table{}
	table.Row("time", "Mb/s", "handshakes", "pings answered", "lost", "longest silence", "failed authentication")
	failures, known := authFailures(gws)
	table.Row(duration, int(s.Bits/1e6), seen, len(log.Replies), len(log.Lost), gap, map[bool]any{true: failures, false: "not told"}[known])
	t.Log(&table)
	if len(log.Replies) < int(duration/pingEvery/2) {
		t.Errorf("%d pings answered in %v", len(log.Replies), duration)
	}
	if labtest.Full() && seen < 3 {
		t.Errorf("%d handshakes: the stream did not live through two changes of keys", seen)
	}
	if endpoint := c.Endpoint(); endpoint != at.Public() {
		t.Errorf("the client moved from %v to %v", at.Public(), endpoint)
	}
	lab.Bar(len(log.Lost) == 0, "0 pings lost beside a stream: %d", len(log.Lost))
	lab.Bar(known && failures == 0, "0 packets fail authentication: %d (told: %v)", failures, known)
}

// watchHandshakes counts the handshakes of a client, the one it has included,
// for d. It delivers the count then.
func watchHandshakes(lab *labtest.Lab, c *labtest.Client, d time.Duration) <-chan int {
	result := make(chan int, 1)
	go func() {
		seen := make(map[time.Time]bool)
		for end := time.Now().Add(d); time.Now().Before(end); lab.Observe(time.Second) {
			peers, err := c.TryPeers()
			if err == nil && len(peers) > 0 && !peers[0].LastHandshake.IsZero() {
				seen[peers[0].LastHandshake] = true
			}
		}
		result <- len(seen)
	}()
	return result
}
