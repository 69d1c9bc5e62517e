package mesh

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestCommonVersion(t *testing.T) {
	for _, x := range []struct {
		oldest, newest, version uint
		ok                      bool
		text                    string
	}{
		{protoMin, protoMax, protoMax, true, ""},
		{protoMin, protoMax + 3, protoMax, true, ""},
		{0, protoMin, protoMin, true, ""},
		{protoMax + 1, protoMax + 2, 0, false, "too new: you speak 2 to 3 of the protocol, the other side 1"},
		{0, 0, 0, false, "too old: you speak 0 of the protocol, the other side 1"},
	} {
		version, ok := common(x.oldest, x.newest)
		if ok != x.ok || ok && version != x.version {
			t.Errorf("%d to %d: %d, %v", x.oldest, x.newest, version, ok)
		}
		if text := unlike(x.oldest, x.newest); !ok && protoMax == 1 && !strings.Contains(text, x.text) {
			t.Errorf("%d to %d: %s", x.oldest, x.newest, text)
		}
	}
}

// A peer of a version with which we have none in common is told so, with both ranges, by link and by join; the refusal
// is remembered.
func TestForeignVersion(t *testing.T) {
	newKey := func() ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	m, err := New(Config{Key: newKey(), Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = m.Run(t.Context()) }()
	defer m.Close()
	self, err := newIdentity(newKey())
	if err != nil {
		t.Fatal(err)
	}
	for proto, first := range map[string][]byte{
		protoLink: encode(kindHello, hello{
			Cluster: make([]byte, 16), Link: make([]byte, 16), ProtoMin: 70, ProtoMax: 80, Class: classControl, Addr: m.addr,
		}),
		protoJoin: encode(kindProof, joinHello{ProtoMin: 70, ProtoMax: 80, Proof: make([]byte, 32)}),
	} {
		raw, err := System.Dial(t.Context(), m.addr)
		if err != nil {
			t.Fatal(err)
		}
		w, err := self.handshake(t.Context(), raw, true, proto)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.write(handshakeTimeout, first); err != nil {
			t.Fatal(err)
		}
		k, body, err := w.read(helloLimit, handshakeTimeout)
		if err != nil || k != kindRefuse {
			t.Fatalf("%s: kind %d, %v", proto, k, err)
		}
		w.close()
		var no *RefusedError
		if err := parseRefusal(body); !errors.As(err, &no) || !no.Version() ||
			!strings.Contains(no.Reason, "too new: you speak 70 to 80") {
			t.Errorf("%s: %v", proto, err)
		}
	}
	for len(m.Refusals()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if r := m.Refusals()[0]; !r.ByUs || r.ID != self.id || !strings.Contains(r.Reason,
		"it speaks 70 to 80 of the protocol") {
		t.Errorf("%+v", r)
	}
}
