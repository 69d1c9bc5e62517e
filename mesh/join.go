package mesh

import (
	"context"
	"crypto/ed25519"
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
	// ErrWrongKey says that one side does not know the other's secret.
	ErrWrongKey = errors.New("the cluster there has another key")
	// ErrWrongMember says that who answers is not the one that
	// Credential.Member names. It was sent nothing.
	ErrWrongMember = errors.New("another gateway answers there")
	// ErrNotMember says that nobody there can admit a newcomer. Config.Welcome
	// returns it, too.
	ErrNotMember = errors.New("nobody there can admit a newcomer")
)

// JoinConfig is what a newcomer joins with.
type JoinConfig struct {
	Key        ed25519.PrivateKey // ours; it is what will be admitted
	Credential Credential
	Name       string
	Version    string
	Now        func() time.Time // what our clock shows, for the member; nil means time.Now
	Network    Network          // nil means System
	// Welcomed is given what the member's Config.Welcome returned, before anything of the state. An error ends the join.
	// It may be nil.
	Welcomed func(data []byte) error
	State    State        // is given the whole "config"
	Log      *slog.Logger // nil means slog.Default
}

// joinHello is the body of the newcomer's kindProof.
type joinHello struct {
	ProtoMin uint   `cbor:"1,keyasint"`
	ProtoMax uint   `cbor:"2,keyasint"`
	Name     string `cbor:"3,keyasint,omitempty"`
	Version  string `cbor:"4,keyasint,omitempty"`
	Proof    []byte `cbor:"5,keyasint"`
	Kind     string `cbor:"6,keyasint,omitempty"` // of the credential; "" is CredentialKey
	ID       []byte `cbor:"7,keyasint,omitempty"` // of the credential
	Time     int64  `cbor:"8,keyasint,omitempty"` // of the newcomer's clock, Unix milliseconds; 0: not told
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
	if len(h.Name) > maxNameLen || len(h.Version) > maxNameLen || len(h.Proof) != sha256.Size || h.ProtoMin > h.ProtoMax ||
		len(h.Kind) > maxNameLen || len(h.ID) > maxCredential {
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

// Join asks the member at addr to admit us: proves the credential to it, has
// it proven, and merges the whole of its "config" into cfg.State. It returns
// what the member's Config.Welcome gave, and the local address from which it
// was reached. Errors: ErrWrongKey, ErrWrongMember, ErrNotMember, *RefusedError, those
// of the network wrapped, and those of cfg.State. After an error the State may hold
// a part; joining again completes it.
func Join(ctx context.Context, cfg JoinConfig, addr netip.AddrPort) ([]byte, netip.Addr, error) {
	if cfg.Network == nil {
		cfg.Network = System
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	self, err := newIdentity(cfg.Key)
	if err == nil {
		cfg.Credential, err = cfg.Credential.withDefaults()
	}
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

func (cfg JoinConfig) join(w *wire, self identity) (_ []byte, err error) {
	c := cfg.Credential
	if !c.pinned(w.key) {
		return nil, ErrWrongMember
	}
	known := c.Member != nil
	defer func() {
		var no *RefusedError
		if errors.As(err, &no) {
			no.Final = known && no.code == refusedPolicy
		}
	}()
	proof, err := c.prove(w, newcomerSide, self.public(), w.key)
	if err != nil {
		return nil, err
	}
	expected, err := c.prove(w, memberSide, self.public(), w.key)
	if err != nil {
		return nil, err
	}
	ours := joinHello{
		ProtoMin: protoMin, ProtoMax: protoMax, Name: clip(cfg.Name), Version: clip(cfg.Version), Proof: proof,
		ID: c.ID, Time: cfg.Now().UnixMilli(),
	}
	if c.Kind != CredentialKey {
		ours.Kind = c.Kind
	}
	err = w.write(joinStep, encode(kindProof, ours))
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
	known = true
	if body, err = w.expect(kindWelcome, joinLimit); err != nil {
		return nil, err
	}
	greeting, err := parseWelcome(body)
	if err != nil {
		return nil, err
	}
	if cfg.Welcomed != nil {
		if err := cfg.Welcomed(greeting.Data); err != nil {
			return nil, err
		}
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
