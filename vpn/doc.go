// Package vpn is the gateway's WireGuard engine: it knows how packets flow between devices and the
// network behind the gateway. It knows devices by public key, addresses and handshake clocks, which it is
// told by a [LookupFunc]. It does not know what a cluster is: who else could answer an initiation is the
// business of a [SteerFunc], who owns a device is told with [Gateway.Drop] and [Gateway.Initiate].
//
// It speaks the unchanged WireGuard protocol (J. A. Donenfeld, "WireGuard: Next Generation Kernel Network
// Tunnel", the whitepaper, revision e2da747) to stock clients.
//
//	UDP batch ─► type? ─4─► index table ─► open in place ─► replay ─► source allowed? ─► TUN batch   receive, one per socket
//	               └1,2,3─► handshake worker (bounded) ─► SteerFunc                                  work, few
//	TUN batch ─► destination ─► session ─► counter ─► seal in place ─► fence ─► UDP batch            transmit, one per queue
//	deadlines of devices in a heap: retransmit, keepalive, new handshake, expiry                     sweep, one
//	events in the order in which they happened ─► Notify                                             notify, one
//
// # Sessions
//
// An enrolled device costs nothing here until it knocks. Its state is made by its first accepted initiation,
// or by Initiate, and ends [RejectAfterTime] × 3 after its last keys were made, when it was dropped, or when
// a handshake that had no session behind it was given up.
//
//	             initiation accepted                 first transport packet
//	(nothing) ───────────────────────► unconfirmed ───────────────────────► confirmed ◄─┐ rekey
//	     │         response sent to            │ 180 s                          │  │ │  │
//	     │         its candidate address       ▼                                │  │ └──┘
//	     │                                 (nothing)                            │  │
//	     │  Initiate                           ▲ 90 s                           │  │ 180 s: keys erased, address known
//	     └──────────────────► initiating ──────┘                                │  ▼
//	                             └── response authenticated ──► confirmed       │ quiet ── data from TUN ─► initiating
//	                                                                            ▼  │ 540 s
//	                                                     Drop, Refresh ──► (nothing) ◄┘
//
// The source of an unconfirmed initiation is only a candidate: the response goes there, while data keeps
// going to the confirmed address until the first packet that proves possession of the new keys, from
// wherever it comes. A replayed initiation can therefore divert nothing.
//
// # Fences
//
// Handshake and transport messages leave only before the deadline last given to [Gateway.Allow]. It is read
// after sealing, once per batch, so a process that was frozen says nothing when it thaws.
//
// # Two paths of packets
//
// On Linux a gateway has a shard per core, up to eight: a socket of each address family (SO_REUSEPORT) and a queue of
// the TUN (IFF_MULTI_QUEUE), with a goroutine each. The kernel keeps a device's datagrams on one shard and sends
// a flow's packets out by the queue that its answers came in by; a session that two shards see is safe, since all that
// they share of it is behind its keypairs' mutexes or atomic. Nothing is copied between buffers but once: super-packets
// of the TUN into the buffer that they are split and sealed in.
//
//	UDP_GRO: datagrams of one sender, side by side ─► opened in place ─► coalescer ─► vnet header, pieces ─► writev
//	UDP_SEGMENT: messages side by side ◄─ sealed in place ◄─ splitter ◄─ vnet header, super-packet ◄─ read
//
// Where the bind or the TUN does not offer that (other systems, the userspace stack, a kernel without vnet headers), its
// functions of the wireguard module are used, each edge for itself. Both paths go through the same functions between
// the edges. A super-packet is made only of packets that the kernel makes of it again (coalescer, which says
// where that is not so), and tests hold both ways against the module and the kernel.
//
// # Faults
//
// Only the end of the socket or of the TUN ends a gateway. What the bind cannot take apart counts as malformed, other
// errors are counted and tried again after 1 ms to 1 s. A batch that segmentation offload cannot send to a device,
// because the path's MTU is smaller than its messages, is sent again message by message, as is all that follows until
// the next handshake.
//
// The store may change while a handshake worker goes by what it said before. So [Gateway.Refresh] raises a generation
// first, and a worker that finds it raised after its session can be found looks the device up again itself.
//
// # Keys and counters
//
// A sealing key and its counter live in one struct behind one mutex, the counter is taken and raised where the
// packet is sealed, and a key is erased under the same mutex: no (key, counter) pair is ever used twice.
//
// # Locks
//
// Locks are held for computation only, never across a channel, a callback or a system call; the exceptions are
// Config.Now, and waking a goroutine through a channel that has room or is skipped. Order, where two are held: device
// state (peer.mu), then any of index table, pending handshakes, allowed IPs, schedule, outbox, requests, a keypair's
// sealer or opener. The map of devices (Gateway.mu) is held alone.
//
// # Rules of the protocol
//
// Where a rule is kept and the test that holds it; stock devices are the oracle of all that touch the wire.
//
//	messages, sizes, reserved bytes (§5.4)          message.go    TestMessageTypes, FuzzDatagram
//	Noise_IKpsk2, preshared key (§5.4)              handshake.go  TestStockClientIsAnswered, TestGatewayInitiates, TestPresharedKey, TestKDF
//	every bit is authenticated                      handshake.go  TestEveryBitOfAnInitiationCounts, TestEveryBitOfAResponseCounts
//	points of low order refused                     handshake.go  TestPointsOfLowOrder
//	mac1 in constant time (§5.3)                    noise.go      TestEveryBitOfAnInitiationCounts, TestMalformedDatagrams
//	cookies and mac2, as their receiver (§5.4.7)    cookie.go     TestCookie
//	TAI64N replay of initiations (§5.1)             respond.go    TestReplayedInitiationIsRefused
//	50 initiations per second and device            respond.go    TestInitiationsPerDeviceAreLimited
//	timestamps sent only grow (§5.1)                timestamp.go  TestTimestamps, TestClockBehindDelaysNothing
//	responder silent until confirmed (§5.4.5)       respond.go    TestUnconfirmedAddressIsOnlyACandidate
//	initiator confirms at once (§5.4.5)             initiate.go   TestFenceBetweenResponseAndFirstPacket
//	previous, current, next keys (§6.3)             peer.go       TestHalfAnHourLosesNothing, TestSimultaneousHandshakes
//	counters, replay window (§5.4.6, RFC 6479)      keypair.go    TestSealAndOpen, TestForgedCountersDoNotMoveTheWindow, TestUnreliableInternet
//	no (key, counter) twice                         keypair.go    TestNoCounterIsUsedTwice, TestEraseWhileSealing, every test with a wire
//	RekeyAfterMessages, RejectAfterMessages (§6.2)  keypair.go    TestLimitsOfACounter, TestKeysAreRenewedAfterTooManyMessages
//	RekeyAfterTime, last minute at 165 s (§6.2)     transmit.go   TestRekeyAsInitiator, TestOneWayTrafficLosesNothing
//	RejectAfterTime (§6.2)                          keypair.go    TestQuietSessionEndsWithItsKeys, TestExpiredKeysAreErased
//	everything erased after 540 s (§6.3)            sweep.go      TestQuietSessionEndsWithItsKeys, TestForgottenSessionLeavesNoSecrets
//	RekeyTimeout, jitter, RekeyAttemptTime (§6.4)   sweep.go      TestTakeoverKeepsInitiatingAndGivesUp, TestDataKeepsHandshakesGoing
//	too soon is made up for (§6.1)                  initiate.go   TestNoHandshakeIsLeftWithoutATimer
//	late responses are refused                      handshake.go  TestResponseHeldBackCompletesNothing
//	new handshake after 15 s of silence (§6.5)      timers.go     TestNothingHeardForFifteenSeconds, TestSilenceClearsTheSource
//	passive keepalive (§6.5)                        timers.go     TestPassiveKeepalive, TestKeepalivesAreNotAnswered
//	packets wait for keys                           transmit.go   TestPacketsWaitForKeys, TestStagingIsBounded
//	padding to 16, at most to the MTU (§5.4.6)      message.go    TestPadding, FuzzTUN
//	cryptokey routing, both ways (§2)               allowed.go    TestAllowedIPs, TestAddressComesBack, TestSpoofedInnerSource, FuzzInner
//	roaming (§2.1)                                  receive.go    TestRoaming
//	answers come from the address asked             udp_linux.go  TestUDPBindAnswersFromTheAddressAsked
//	packets merged and split are the same ones      coalesce.go   TestCoalescedPacketsComeBack, FuzzCoalesce
//	                                                split.go      FuzzSplit, TestWritesEqualTheModules, TestReadsEqualTheModules
//
// Cookies as their sender, under load, are not made yet.
package vpn
