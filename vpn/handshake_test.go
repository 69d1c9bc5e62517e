package vpn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"gatemesh/vpn/vpntest"
)

// pair is both ends of a handshake made by this package.
type pair struct {
	gateway, device *identity
	toDevice        *remote // as the gateway sees the device
	toGateway       *remote
	secret          [32]byte
	psk             Key
}

func newPair(tb testing.TB) (p pair) {
	tb.Helper()
	var err error
	for _, id := range []**identity{&p.gateway, &p.device} {
		private, _ := vpntest.NewKey()
		if *id, err = newIdentity(private); err != nil {
			tb.Fatal(err)
		}
	}
	if p.toDevice, p.secret, err = p.gateway.newRemote(p.device.public); err != nil {
		tb.Fatal(err)
	}
	if p.toGateway, _, err = p.device.newRemote(p.gateway.public); err != nil {
		tb.Fatal(err)
	}
	p.psk, _ = vpntest.NewKey()
	return p
}

// initiation is one from the device.
func (p *pair) initiation(tb testing.TB, ts Timestamp) (m [initiationSize]byte, out *outgoing) {
	tb.Helper()
	m, out, err := p.device.initiate(p.toGateway, &p.secret, 0x01020304, ts)
	if err != nil {
		tb.Fatal(err)
	}
	putMAC1(&p.toGateway.mac1Key, m[:])
	return m, out
}

// handshake returns what both sides have in the end.
func (p *pair) handshake(tb testing.TB) (device, gateway keys) {
	tb.Helper()
	m, out := p.initiation(tb, stamp(time.Now()))
	in, err := p.gateway.openInitiation(m[:])
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := in.openTimestamp(&p.secret); err != nil {
		tb.Fatal(err)
	}
	r, gateway, err := in.respond(p.toDevice.public, &p.psk, 0x0a0b0c0d)
	if err != nil {
		tb.Fatal(err)
	}
	device, err = p.device.finish(*out, &p.psk, r[:])
	if err != nil {
		tb.Fatal(err)
	}
	return device, gateway
}

func TestHandshakeAgrees(t *testing.T) {
	p := newPair(t)
	d, g := p.handshake(t)
	if d.send != g.receive || d.receive != g.send || d.send == d.receive {
		t.Error("keys differ")
	}
	if d.local != 0x01020304 || d.remote != 0x0a0b0c0d || g.local != d.remote || g.remote != d.local {
		t.Errorf("indices: %x %x", d, g)
	}
}

// TestKDF holds the vectors of wireguard-go's device/kdf_test.go.
func TestKDF(t *testing.T) {
	for _, v := range []struct{ key, input, t1, t2, t3 string }{
		{
			"746573742d6b6579", "746573742d696e707574",
			"6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
			"df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
			"fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
		},
		{
			"776972656775617264", "776972656775617264",
			"491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
			"1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
			"31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
		},
		{
			"", "",
			"8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
			"58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
			"0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
		},
	} {
		var chain [32]byte
		key, _ := hex.DecodeString(v.key)
		input, _ := hex.DecodeString(v.input)
		copy(chain[:], key) // HMAC pads short keys with zeros
		a, b, c := kdf(&chain, input, 3)
		if got := hex.EncodeToString(a[:]); got != v.t1 {
			t.Errorf("t1 of %q: %s", key, got)
		}
		if got := hex.EncodeToString(b[:]); got != v.t2 {
			t.Errorf("t2 of %q: %s", key, got)
		}
		if got := hex.EncodeToString(c[:]); got != v.t3 {
			t.Errorf("t3 of %q: %s", key, got)
		}
	}
}

func TestEveryBitOfAnInitiationCounts(t *testing.T) {
	p := newPair(t)
	m, _ := p.initiation(t, stamp(time.Now()))
	for i := 8; i < initiationSize-2*macSize; i++ { // type and index are not encrypted, mac1 covers them
		bad := m
		bad[i] ^= 1 << (i % 8)
		if checkMAC1(&p.gateway.mac1Key, bad[:]) {
			t.Fatalf("mac1 is right with byte %d changed", i)
		}
		in, err := p.gateway.openInitiation(bad[:])
		if err == nil {
			_, err = in.openTimestamp(&p.secret)
		}
		if !errors.Is(err, errHandshake) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

func TestEveryBitOfAResponseCounts(t *testing.T) {
	p := newPair(t)
	m, out := p.initiation(t, stamp(time.Now()))
	in, _ := p.gateway.openInitiation(m[:])
	in.openTimestamp(&p.secret)
	r, _, err := in.respond(p.toDevice.public, &p.psk, 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := 12; i < responseSize-2*macSize; i++ {
		bad := r
		bad[i] ^= 1 << (i % 8)
		if _, err := p.device.finish(*out, &p.psk, bad[:]); !errors.Is(err, errHandshake) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	wrong, _ := vpntest.NewKey()
	if _, err := p.device.finish(*out, &wrong, r[:]); !errors.Is(err, errHandshake) {
		t.Errorf("wrong preshared key: %v", err)
	}
	if _, err := p.device.finish(*out, &p.psk, r[:]); err != nil {
		t.Errorf("a wrong response used up the handshake: %v", err)
	}
}

func TestAnotherDeviceCannotPoseAsThisOne(t *testing.T) {
	// Whoever knows the gateway's public key can name any device in an initiation; the timestamp proves it.
	p := newPair(t)
	var wrong [32]byte
	m, _, err := p.device.initiate(p.toGateway, &wrong, 1, stamp(time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	in, err := p.gateway.openInitiation(m[:])
	if err != nil || in.device != p.device.public {
		t.Fatalf("%v", err)
	}
	if _, err := in.openTimestamp(&p.secret); !errors.Is(err, errHandshake) {
		t.Error(err)
	}
}

func TestPointsOfLowOrder(t *testing.T) {
	p := newPair(t)
	for _, text := range []string{ // RFC 7748 §6.1, https://cr.yp.to/ecdh.html
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		point, _ := hex.DecodeString(text)
		if _, _, err := p.gateway.newRemote(Key(point)); !errors.Is(err, errLowOrder) {
			t.Errorf("static key %s: %v", text, err)
		}
		m, out := p.initiation(t, stamp(time.Now()))
		copy(m[8:], point)
		if _, err := p.gateway.openInitiation(m[:]); !errors.Is(err, errLowOrder) {
			t.Errorf("ephemeral key %s of an initiation: %v", text, err)
		}
		var r [responseSize]byte
		copy(r[12:], point)
		if _, err := p.device.finish(*out, &p.psk, r[:]); !errors.Is(err, errLowOrder) {
			t.Errorf("ephemeral key %s of a response: %v", text, err)
		}
	}
}

func TestIdentityNeedsAKey(t *testing.T) {
	if _, err := newIdentity(Key{}); err == nil {
		t.Error("zero key accepted")
	}
}

func TestTimestamps(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 999_999_999, time.UTC)
	if got := fmt.Sprintf("%x", stamp(at)); got != "400000006b00364a3b000000" { // 2^62 + 10 + 1795176000 s, 24 bits of the nanoseconds cut
		t.Errorf("stamp: %s", got)
	}
	var zero, last Timestamp
	for i := range last {
		last[i] = 0xff
	}
	full := stamp(at)
	be.PutUint32(full[8:], nanosecond-1)
	for _, c := range []struct {
		name     string
		now      time.Time
		floor    Timestamp
		want     Timestamp
		possible bool
	}{
		{"no floor", at, zero, stamp(at), true},
		{"floor in the past", at, stamp(at.Add(-time.Hour)), stamp(at), true},
		{"floor is now", at, stamp(at), added(stamp(at), 0, 1), true},
		{"floor ahead", at, stamp(at.Add(time.Hour)), added(stamp(at.Add(time.Hour)), 0, 1), true},
		{"full second", at, full, added(full, 1, 1-nanosecond), true},
		{"end of time", at, last, zero, false},
	} {
		got, ok := nextSent(c.now, c.floor)
		if ok != c.possible || ok && (got != c.want || !after(got, c.floor)) {
			t.Errorf("%s: %x, %v", c.name, got, ok)
		}
	}
}

func added(ts Timestamp, seconds, nanos int) Timestamp {
	be.PutUint64(ts[:], be.Uint64(ts[:])+uint64(seconds))
	be.PutUint32(ts[8:], be.Uint32(ts[8:])+uint32(nanos))
	return ts
}

func FuzzHandshake(f *testing.F) {
	p := newPair(f)
	m, out := p.initiation(f, stamp(time.Unix(1, 0)))
	in, _ := p.gateway.openInitiation(m[:])
	in.openTimestamp(&p.secret)
	r, _, _ := in.respond(p.toDevice.public, &p.psk, 1)
	f.Add(m[:])
	f.Add(r[:])
	f.Add(bytes.Repeat([]byte{0xff}, initiationSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		switch messageType(b) {
		case typeInitiation:
			checkMAC1(&p.gateway.mac1Key, b)
			in, err := p.gateway.openInitiation(b)
			if err != nil {
				return
			}
			if _, err := in.openTimestamp(&p.secret); err == nil && !bytes.Equal(b[8:116], m[8:116]) {
				t.Error("a forged initiation authenticates")
			}
		case typeResponse:
			checkMAC1(&p.device.mac1Key, b)
			if _, err := p.device.finish(*out, &p.psk, b); err == nil && !bytes.Equal(b[12:60], r[12:60]) {
				t.Error("a forged response authenticates")
			}
		}
	})
}

// newRemote also returns the secret that both static keys share. It costs one X25519.
func (id *identity) newRemote(key Key) (r *remote, secret [32]byte, err error) {
	r = remoteOf(key)
	secret, err = id.shared(r)
	return r, secret, err
}
