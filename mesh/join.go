package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// joinState is the State that a newcomer receives whole.
const joinState = "config"

const (
	joinStep       = 30 * time.Second // for each frame
	welcomeTimeout = 10 * time.Second
)

// Errors of Join.
var (
	ErrWrongKey = errors.New("the cluster there has another key")
	// ErrNotMember says that nobody there can admit a newcomer. Config.Welcome
	// returns it, too.
	ErrNotMember = errors.New("nobody there can admit a newcomer")
)

// JoinConfig is what a newcomer joins with.
type JoinConfig struct {
	Key        ed25519.PrivateKey // ours; it is what will be admitted
	ClusterKey [32]byte           // is proven, never sent
	Name       string
	Version    string
	Network    Network      // nil means System
	State      State        // is given the whole "config"
	Log        *slog.Logger // nil means slog.Default
}

// joinHello is the body of the newcomer's kindProof.
type joinHello struct {
	ProtoMin uint   `cbor:"1,keyasint"`
	ProtoMax uint   `cbor:"2,keyasint"`
	Name     string `cbor:"3,keyasint,omitempty"`
	Version  string `cbor:"4,keyasint,omitempty"`
	Proof    []byte `cbor:"5,keyasint"`
}

// joinProof is the body of the member's kindProof.
type joinProof struct {
	Proof []byte `cbor:"1,keyasint"`
}

// welcome is the body of kindWelcome.
type welcome struct {
	Data []byte `cbor:"1,keyasint,omitempty"`
}

func parseJoinHello(body []byte) (joinHello, error) {
	var h joinHello
	if err := decode(body, &h); err != nil {
		return joinHello{}, err
	}
	if len(h.Name) > maxNameLen || len(h.Version) > maxNameLen || len(h.Proof) != sha256.Size || h.ProtoMin > h.ProtoMax {
		return joinHello{}, fmt.Errorf("%w: proof out of bounds", errFrame)
	}
	return h, nil
}

func parseJoinProof(body []byte) (joinProof, error) {
	var p joinProof
	if err := decode(body, &p); err != nil {
		return joinProof{}, err
	}
	if len(p.Proof) != sha256.Size {
		return joinProof{}, fmt.Errorf("%w: proof out of bounds", errFrame)
	}
	return p, nil
}

func parseWelcome(body []byte) (welcome, error) {
	var w welcome
	if err := decode(body, &w); err != nil {
		return welcome{}, err
	}
	if len(w.Data) > maxWelcome {
		return welcome{}, fmt.Errorf("%w: welcome out of bounds", errFrame)
	}
	return w, nil
}

// Labels of the proofs: neither side can send back what it got.
const (
	labelNewcomer = "gatemesh join newcomer v1"
	labelMember   = "gatemesh join member v1"
)

// prove returns the proof of the cluster key by the side that label names,
// over this one connection: an HMAC-SHA256 of TLS's exporter (RFC 8446
// section 7.5, RFC 9266) and both node keys. Who sits between two connections
// has two exporters.
func prove(w *wire, clusterKey [32]byte, label string, newcomer, member ed25519.PublicKey) ([]byte, error) {
	state := w.conn.ConnectionState()
	exporter, err := state.ExportKeyingMaterial("EXPORTER-gatemesh-join", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("export keying material: %w", err)
	}
	key, err := hkdf.Key(sha256.New, clusterKey[:], nil, label, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("derive proof key: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(exporter)
	mac.Write(newcomer)
	mac.Write(member)
	return mac.Sum(nil), nil
}

// Join asks the member at addr to admit us: proves the cluster key to it, has
// it proven, and merges the whole of its "config" into cfg.State. It returns
// what the member's Config.Welcome gave, and the local address from which it
// was reached. Errors: ErrWrongKey, ErrNotMember, *RefusedError, those of the
// network wrapped, and those of cfg.State. After an error the State may hold
// a part; joining again completes it.
func Join(ctx context.Context, cfg JoinConfig, addr netip.AddrPort) ([]byte, netip.Addr, error) {
	if cfg.Network == nil {
		cfg.Network = System
	}
	self, err := newIdentity(cfg.Key)
	if err != nil {
		return nil, netip.Addr{}, err
	}
	raw, err := cfg.Network.Dial(ctx, addr)
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("dial %s: %w", addr, err)
	}
	defer raw.Close()
	release := context.AfterFunc(ctx, func() { raw.Close() })
	defer release()
	local := addrOf(raw.LocalAddr()).Addr()
	w, err := self.handshake(ctx, raw, true, protoJoin)
	if err == nil {
		var data []byte
		if data, err = cfg.join(w, self); err == nil {
			return data, local, nil
		}
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return nil, local, fmt.Errorf("join at %s: %w", addr, err)
}

func (cfg JoinConfig) join(w *wire, self identity) ([]byte, error) {
	proof, err := prove(w, cfg.ClusterKey, labelNewcomer, self.public(), w.key)
	if err != nil {
		return nil, err
	}
	expected, err := prove(w, cfg.ClusterKey, labelMember, self.public(), w.key)
	if err != nil {
		return nil, err
	}
	err = w.write(joinStep, encode(kindProof, joinHello{
		ProtoMin: protoMin, ProtoMax: protoMax, Name: clip(cfg.Name), Version: clip(cfg.Version), Proof: proof,
	}))
	if err != nil {
		return nil, fmt.Errorf("send proof: %w", err)
	}
	body, err := w.expect(kindProof, helloLimit)
	if err != nil {
		return nil, err
	}
	theirs, err := parseJoinProof(body)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(theirs.Proof, expected) {
		return nil, ErrWrongKey
	}
	if body, err = w.expect(kindWelcome, joinLimit); err != nil {
		return nil, err
	}
	greeting, err := parseWelcome(body)
	if err != nil {
		return nil, err
	}
	if err := w.receive(cfg.State); err != nil {
		return nil, err
	}
	if err := w.write(joinStep, encode(kindDone, nil)); err != nil {
		return nil, fmt.Errorf("confirm: %w", err)
	}
	w.finish()
	return greeting.Data, nil
}

// expect reads the body of a frame of kind k. A refusal becomes its error.
func (w *wire) expect(k kind, limit int) ([]byte, error) {
	for {
		got, body, err := w.read(limit, joinStep)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read answer: %w", err)
		case got == k:
			return body, nil
		case got == kindRefuse:
			err := parseRefusal(body)
			var no *RefusedError
			if errors.As(err, &no) && no.code == refusedProof {
				return nil, ErrWrongKey
			}
			if errors.As(err, &no) && no.code == refusedNobody {
				return nil, ErrNotMember
			}
			return nil, err
		}
	}
}

// receive merges parts until the end.
func (w *wire) receive(s State) error {
	for {
		k, body, err := w.read(joinLimit, joinStep)
		if err != nil {
			return fmt.Errorf("read state: %w", err)
		}
		switch k {
		case kindPart:
			p, err := parsePart(body)
			if err != nil {
				return err
			}
			if s == nil {
				continue
			}
			if _, err := s.Merge(p.Data); err != nil {
				return fmt.Errorf("merge state: %w", err)
			}
		case kindEnd:
			return nil
		case kindRefuse:
			return parseRefusal(body)
		}
	}
}
