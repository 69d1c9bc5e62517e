package mesh

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"testing"

	"github.com/pion/mdns/v2"
)

// body cuts the header off a frame.
func body(frame []byte) []byte { return frame[frameHeader:] }

func FuzzReadFrame(f *testing.F) {
	f.Add(encode(kindHello, hello{Cluster: make([]byte, 16)}))
	f.Add(encode(kindClosing, nil))
	f.Add([]byte{0, 0, 0, 0, 1})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2})
	f.Add([]byte{0, 0, 0, 9, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, got, err := readFrame(bytes.NewReader(b), helloLimit)
		if err != nil {
			return
		}
		if len(got) > helloLimit || len(b) < frameHeader+len(got) {
			t.Fatalf("%d bytes out of %d", len(got), len(b))
		}
		again := make([]byte, frameHeader, frameHeader+len(got))
		binary.BigEndian.PutUint32(again, uint32(1+len(got)))
		again[4] = byte(k)
		if again = append(again, got...); !bytes.Equal(again, b[:len(again)]) {
			t.Fatal("not what was sent")
		}
	})
}

// What is promised but does not come takes no memory.
func TestFrameTakesMemoryAsItComes(t *testing.T) {
	head := []byte{0, 0x10, 0, 0, 1} // a mebibyte
	const runs = 64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		if _, _, err := readFrame(bytes.NewReader(head), controlLimit); err == nil {
			t.Fatal("read what did not come")
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / runs; n > 2*wireChunk {
		t.Errorf("%d bytes for a mebibyte that is only promised", n)
	}
}

// What comes before a peer is admitted.
func FuzzStrangersFrames(f *testing.F) {
	f.Add(body(encode(kindHello, hello{
		Cluster: make([]byte, 16), ProtoMin: 1, ProtoMax: 1, Version: "v", Name: "n", Voucher: []byte("v"),
		Class: classControl, Addr: netip.MustParseAddrPort("192.0.2.1:7946"), Boot: 7, Link: make([]byte, 16),
		States: []string{"config"},
	})))
	f.Add(body(encode(kindRefuse, refusal{refusedPolicy, "because", "do this"})))
	f.Add(body(encode(kindProof, joinHello{ProtoMin: 1, ProtoMax: 1, Name: "n", Version: "v", Proof: make([]byte, 32)})))
	f.Add(body(encode(kindProof, joinHello{
		ProtoMin: 1, ProtoMax: 1, Proof: make([]byte, 32), Kind: CredentialToken, ID: []byte("claims"), Time: 1,
	})))
	f.Add(body(encode(kindProof, joinProof{make([]byte, 32)})))
	f.Add(body(encode(kindWelcome, welcome{[]byte("w")})))
	f.Add([]byte{0xa1, 0x01, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) // a string without end
	f.Add(bytes.Repeat([]byte{0x81}, 100))                                          // nested
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHello(b); err == nil {
			if len(h.Cluster) != 16 || len(h.Link) != 16 || len(h.Name) > maxNameLen || len(h.Voucher) > maxVoucher ||
				h.Addr.Addr().Zone() != "" || h.Addr.Addr().Is4In6() {
				t.Fatalf("%+v", h)
			}
			if again, err := parseHello(body(encode(kindHello, h))); err != nil || again.Boot != h.Boot || again.Addr != h.Addr {
				t.Fatalf("%+v is not %+v: %v", again, h, err)
			}
		}
		var no *RefusedError
		if err := parseRefusal(b); err == nil || errors.As(err, &no) && len(no.Reason)+len(no.Hint) > 2*maxReason+100 {
			t.Fatalf("refusal %v", err)
		}
		if h, err := parseJoinHello(b); err == nil && (len(h.Proof) != 32 || len(h.Name) > maxNameLen ||
			len(h.Kind) > maxNameLen || len(h.ID) > maxCredential) {
			t.Fatalf("%+v", h)
		}
		if p, err := parseJoinProof(b); err == nil && len(p.Proof) != 32 {
			t.Fatalf("%+v", p)
		}
		if w, err := parseWelcome(b); err == nil && len(w.Data) > maxWelcome {
			t.Fatalf("%d bytes", len(w.Data))
		}
	})
}

// What comes from members.
func FuzzMembersFrames(f *testing.F) {
	f.Add(body(encode(kindBeat, beat{Seq: 1, Payload: []byte("p"), Echo: 3, Held: 4})))
	f.Add(body(encode(kindAsk, ask{make([]byte, 16)})))
	f.Add(body(encode(kindTell, tell{make([]byte, 16), true})))
	f.Add(body(encode(kindCall, message{"kind", []byte("p"), 9})))
	f.Add(body(encode(kindAnswer, answer{9, outcomeError, []byte("text")})))
	f.Add(body(encode(kindDigest, digest{Name: "config", Have: []byte("d"), Want: true, Ack: true, Ask: true})))
	f.Add(body(encode(kindPart, part{"config", []byte("data")})))
	f.Add(body(encode(kindEnd, end{"config", true})))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &Mesh{peers: map[ID]*peer{}}
		l := &link{mesh: m, calls: map[uint64]chan answer{}, out: make(chan []byte, 4)}
		_ = m.onAsk(l, b)
		_ = m.onTell(l, b)
		_ = m.onBeat(l, b)
		_ = l.onAnswer(b)
		if q, err := parseMessage(b); err == nil && (len(q.Kind) > maxNameLen || len(q.Payload) > MaxMessage) {
			t.Fatalf("%+v", q)
		}
		if d, err := parseDigest(b); err == nil && (len(d.Name) > maxNameLen || len(d.Have) > maxDigest) {
			t.Fatalf("%+v", d)
		}
		if p, err := parsePart(b); err == nil && (len(p.Name) > maxNameLen || len(p.Data) > maxPart) {
			t.Fatalf("%+v", p)
		}
		if e, err := parseEnd(b); err == nil && len(e.Name) > maxNameLen {
			t.Fatalf("%+v", e)
		}
	})
}

func FuzzOpenHint(f *testing.F) {
	key := hintKey([32]byte{3})
	f.Add(hint{roleMember, ID{1}, 2, 3, [8]byte{4}, 5}.seal(key, 7946))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := openHint(key, b, 7946)
		if err == nil && !bytes.Equal(h.seal(key, 7946), b) {
			t.Fatal("a hint has two forms")
		}
		if _, err := openHint(hintKey([32]byte{4}), b, 7946); err == nil {
			t.Fatal("opened with another key")
		}
		if _, err := openHint(key, b, 7947); err == nil {
			t.Fatal("opened for another port")
		}
		text, ok := parseLANText([]mdns.TXTEntry{mdns.NewTXTString("x", ""), mdns.NewTXTBinary(lanKey, b)})
		if ok && (len(text) == 0 || len(text) > 64) {
			t.Fatalf("%d bytes", len(text))
		}
	})
}

func FuzzParseNodeName(f *testing.F) {
	f.Add(nodeName(ID{1, 2}, 3))
	f.Add("g1")
	f.Fuzz(func(t *testing.T, s string) {
		if id, boot, ok := parseNodeName(s); ok && nodeName(id, boot) != s {
			t.Fatalf("%q has two forms", s)
		}
	})
}

func TestLANTextRoundTrip(t *testing.T) {
	b := hint{roleMember, ID{1}, 2, 3, [8]byte{4}, 5}.seal(hintKey([32]byte{3}), 7946)
	got, ok := parseLANText(lanText(b))
	if !ok || !bytes.Equal(got, b) || len(b) > 64 {
		t.Errorf("%x, %v", got, ok)
	}
}
