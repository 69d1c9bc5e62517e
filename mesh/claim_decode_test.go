package mesh

import "testing"

// What comes before the other side has proven anything, in a claim and at a log-on.
func FuzzClaimFrames(f *testing.F) {
	f.Add(body(encode(kindProof, proofBody{make([]byte, 32), []byte("about")})))
	f.Add(body(encode(kindOffer, offerBody{[]byte("offer")})))
	f.Add(body(encode(kindLogon, logonBody{1, 1, "n", "v", "anna", "geheim"})))
	f.Add(body(encode(kindGrant, grantBody{[]byte("grant")})))
	f.Add([]byte{0xa1, 0x01, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseProofBody(b); err == nil && (len(p.Proof) != 32 || len(p.About) > maxClaim) {
			t.Fatalf("%+v", p)
		}
		if o, err := parseOfferBody(b); err == nil && len(o.Data) > maxClaim {
			t.Fatalf("%d bytes", len(o.Data))
		}
		l, err := parseLogonBody(b)
		if err == nil && (len(l.User) > maxUser || len(l.Password) > maxPassword || len(l.Name) > maxNameLen ||
			len(l.Version) > maxNameLen) {
			t.Fatalf("%+v", l)
		}
		if err == nil {
			if again, err := parseLogonBody(body(encode(kindLogon, l))); err != nil || again != l {
				t.Fatalf("%+v is not %+v: %v", again, l, err)
			}
		}
		if g, err := parseGrantBody(b); err == nil && len(g.Data) > maxGrant {
			t.Fatalf("%d bytes", len(g.Data))
		}
	})
}
