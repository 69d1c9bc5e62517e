package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// A member of a cluster claims a gateway elsewhere, for its cluster. Both know the code that the
// claimed one has shown to an administrator.
//
//	member                                      the gateway that is claimed
//	TLS: both node keys are proven
//	proof of the code ─────────────────────────► counted; a wrong one is refused
//	                  ◄───────────────────────── proof of the code, and what it is
//	offer, once an administrator agrees ───────►
//	                  ◄───────────────────────── what comes of it

// credentialClaim is the kind of credential that a claim code is. The one that is claimed is the newcomer.
const credentialClaim = "claim"

const (
	maxClaim   = 16 << 10         // what each side says of itself, an offer, an answer
	claimLimit = maxClaim + 1<<10 // a frame with it
	claimStep  = 30 * time.Second // for each frame, and what is done before it is sent
)

// ErrWrongCode is an error of Claim.
var ErrWrongCode = errors.New("the gateway there has another claim code")

// Claims is what a gateway that may be claimed is asked. What it returns as an error is told to whoever claims, see
// RefusedError.
type Claims interface {
	// Try returns what the code is. It counts as a try with a wrong one until Right.
	Try(from netip.Addr) (secret [32]byte, err error)
	// Right is told that the last code that this address tried was right. It returns what the gateway is, at most
	// 16 KiB.
	Right(from netip.Addr) (about []byte, err error)
	// Take accepts an offer, durably, and returns what comes of it, at most 16 KiB. secret is that of the code that was
	// proven.
	Take(ctx context.Context, secret [32]byte, offer []byte) (answer []byte, err error)
	// Taken is called after the answer to an accepted offer was sent, or could not be sent.
	Taken()
}

// ClaimConfig is what a gateway elsewhere is claimed with.
type ClaimConfig struct {
	Key     ed25519.PrivateKey // ours
	Secret  [32]byte           // of the code; it is proven, never sent
	Gateway ID                 // nobody else is sent anything; zero: anybody
	Network Network            // nil means System
}

// proofBody is the body of kindProof in a claim. About is the claimed one's.
type proofBody struct {
	Proof []byte `cbor:"1,keyasint"`
	About []byte `cbor:"2,keyasint,omitempty"`
}

// offerBody is the body of kindOffer and kindTaken.
type offerBody struct {
	Data []byte `cbor:"1,keyasint"`
}

func parseProofBody(body []byte) (proofBody, error) {
	var p proofBody
	if err := decode(body, &p); err != nil {
		return proofBody{}, err
	}
	if len(p.Proof) != sha256.Size || len(p.About) > maxClaim {
		return proofBody{}, fmt.Errorf("%w: proof out of bounds", errFrame)
	}
	return p, nil
}

func parseOfferBody(body []byte) (offerBody, error) {
	var o offerBody
	if err := decode(body, &o); err != nil {
		return offerBody{}, err
	}
	if len(o.Data) > maxClaim {
		return offerBody{}, fmt.Errorf("%w: offer out of bounds", errFrame)
	}
	return o, nil
}

// Claim proves the code to the gateway at addr, has it proven, and tells decide who that is and what it says of
// itself. What decide returns is offered, and the answer returned; nil ends the conversation, without an
// error. decide has 30 seconds. Errors: ErrWrongCode, ErrNotMember for one that cannot be claimed, *OtherError,
// *RefusedError, that of decide, and those of the network wrapped. After one of the network the offer may have been
// accepted.
func Claim(
	ctx context.Context, cfg ClaimConfig, addr netip.AddrPort,
	decide func(id ID, about []byte) (offer []byte, err error),
) ([]byte, error) {
	var answer []byte
	err := converse(ctx, cfg.Key, cfg.Network, addr, protoClaim, func(w *wire, self identity) (err error) {
		if cfg.Gateway != (ID{}) && IDOf(w.key) != cfg.Gateway {
			return &OtherError{Want: cfg.Gateway, Got: IDOf(w.key)}
		}
		answer, err = cfg.claim(w, self, decide)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim the gateway at %s: %w", addr, err)
	}
	return answer, nil
}

func (cfg ClaimConfig) claim(w *wire, self identity, decide func(ID, []byte) ([]byte, error)) ([]byte, error) {
	code := Credential{Kind: credentialClaim, Secret: cfg.Secret}
	proof, err := code.prove(w, memberSide, w.key, self.public())
	if err != nil {
		return nil, err
	}
	expected, err := code.prove(w, newcomerSide, w.key, self.public())
	if err != nil {
		return nil, err
	}
	if err := w.write(claimStep, encode(kindProof, proofBody{Proof: proof})); err != nil {
		return nil, fmt.Errorf("send proof: %w", err)
	}
	body, err := w.expect(kindProof, claimLimit)
	if errors.Is(err, ErrWrongKey) {
		return nil, ErrWrongCode
	} else if err != nil {
		return nil, err
	}
	theirs, err := parseProofBody(body)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(theirs.Proof, expected) {
		return nil, ErrWrongCode
	}
	offer, err := decide(IDOf(w.key), theirs.About)
	if err != nil || offer == nil {
		return nil, err
	}
	if err := w.write(claimStep, encode(kindOffer, offerBody{offer})); err != nil {
		return nil, fmt.Errorf("send offer: %w", err)
	}
	if body, err = w.expect(kindTaken, claimLimit); err != nil {
		return nil, err
	}
	answer, err := parseOfferBody(body)
	if err != nil {
		return nil, err
	}
	w.finish()
	return answer.Data, nil
}

// serveClaim answers a member that claims us.
func (m *Mesh) serveClaim(ctx context.Context, s *stranger, w *wire) error {
	k, body, err := w.read(helloLimit, handshakeTimeout)
	if err != nil {
		return fmt.Errorf("read proof: %w", err)
	}
	if k != kindProof {
		return fmt.Errorf("%w: kind %d instead of a proof", errFrame, k)
	}
	theirs, err := parseProofBody(body)
	if err != nil {
		return err
	}
	c := m.cfg.Claims
	if c == nil {
		w.refuse(refusedNobody, "")
		return nil
	}
	secret, proof, err := m.examineClaim(w, s.from.Addr(), theirs.Proof)
	if err != nil || proof == nil {
		return err
	}
	s.known()
	about, err := c.Right(s.from.Addr())
	if err != nil {
		w.refuseFor(err)
		return fmt.Errorf("be claimed by %s: %w", IDOf(w.key), err)
	}
	if err := w.write(claimStep, encode(kindProof, proofBody{proof, about})); err != nil {
		return fmt.Errorf("send proof: %w", err)
	}
	if k, body, err = w.read(claimLimit, 2*claimStep); err != nil || k != kindOffer {
		return err // it has only looked
	}
	offer, err := parseOfferBody(body)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, claimStep-joinMargin)
	answer, err := c.Take(limited, secret, offer.Data)
	cancel()
	if err != nil {
		w.refuseFor(err)
		return fmt.Errorf("take the offer of %s: %w", IDOf(w.key), err)
	}
	defer c.Taken()
	if err := w.write(claimStep, encode(kindTaken, offerBody{answer})); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	w.finish()
	return nil
}

// examineClaim returns the secret of our code and our proof of it, if theirs is right; otherwise it has refused, and
// returns none.
func (m *Mesh) examineClaim(w *wire, from netip.Addr, theirs []byte) (secret [32]byte, ours []byte, err error) {
	if secret, err = m.cfg.Claims.Try(from); err != nil {
		w.refuseFor(err)
		return secret, nil, nil
	}
	code := Credential{Kind: credentialClaim, Secret: secret}
	expected, err := code.prove(w, memberSide, m.self.public(), w.key)
	if err != nil {
		return secret, nil, err
	}
	if !hmac.Equal(theirs, expected) {
		m.strangers.Warn("claim refused: wrong code", "from", from)
		w.refuse(refusedProof, "")
		return secret, nil, nil
	}
	ours, err = code.prove(w, newcomerSide, m.self.public(), w.key)
	return secret, ours, err
}
