// Package mesh is how gateways talk to each other.
//
// It knows names, keys, addresses and bytes: who is a member and whether it is
// alive, a pair of streams to each of them, and when two replicas differ. It
// does not know what the bytes mean. What is replicated comes in as a [State],
// who may be a member is decided by [Config.Admit], and what a heartbeat
// carries is made by [Config.Beat].
//
//	            one port, TCP and UDP
//	UDP ───────────────────────────────► serf (membership, failure detection)
//	TCP ─ first byte ─┬─ 0x16: TLS 1.3 ─┬─ gatemesh-link/1   control, bulk
//	                  │                 ├─ gatemesh-join/1   a newcomer
//	                  │                 ├─ gatemesh-claim/1  a member of another cluster, which wants us
//	                  │                 └─ gatemesh-logon/1  a newcomer with an administrator's password
//	                  └─ other ─────────► serf (push and pull)
//
// Two members keep one link, made of two TLS connections: control carries
// heartbeats and small messages, bulk carries states, so that a large delta
// never delays a heartbeat. Both ends of every connection prove their Ed25519
// key; nothing is accepted from a key that is not admitted. They talk the newest
// version of the protocol that both speak.
//
// # Who is there
//
// serf says who exists; its verdict takes seconds. The links say who is alive:
//
//	           link authenticated
//	  ┌──────────────────────────────────────┐
//	  ▼                                      │
//	alive ── stream closed ─► probe ─ linked ┘
//	  │                         ├── refused ────────────► Down, at once
//	  │                         └── no answer ─┐
//	  └── no heartbeat for max(600 ms, 4 RTT) ─┴► witness ─ hears it ─► alive
//	                                                 └ no, or none ───► Down
//
// [Down] is fast and may be wrong; whoever acts on it must be harmless when it
// is. A member that is gone is dialled for ever.
package mesh
