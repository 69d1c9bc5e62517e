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
//	TUN batch ─► destination ─► session ─► counter ─► seal in place ─► fence ─► UDP batch            transmit, one
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
// packet is sealed, and a key is erased under the same mutex: no (key, counter) pair is ever used twice. What an export
// gives away is cut off under that mutex, too, so this holds for all gateways together (part.go).
//
// # Hand-over
//
// A confirmed session can be exported to another gateway, its heir, which holds it in memory and takes it over when its
// caller has claimed the device: no handshake, no clock. What each rule is for is with its code.
//
//	owner                       heir
//	Export ──────── secret ───► Import ─► held ─ TakeOver ─► keys in use ─► knock: an empty message under each key
//	Floors ── each second ────► RaiseFloors                    │               the device follows its sender
//	final: Forward ─ packets ─► Deliver                        ├─ first message of the device ─► Confirmed, Imported
//	Mute, Drop ◄───── claim, confirmation ─────────────────────┘  1 to 3 s later, paced: new keys
//
// While the current keys are imported, a new source address is only a candidate, as what comes may be a replay of what
// the device sent to its former gateway. Receiver indices were drawn by that gateway: keypairs are chained per slot.
//
//	counters cut into ascending parts       part.go      TestParts, TestNoHistoryUsesACounterTwice, TestSessionMovesFourTimes, TestThirtyOneExports
//	imports only above all that was held    held.go      TestExportsLostDoubledAndLate, TestNoHistoryUsesACounterTwice
//	exports are bounded, strict, for one    export.go    TestImportRefusals, TestExportIsWhole, FuzzImport
//	keys erased with their lifetime         held.go      TestHeldKeysEndInTime, TestCloseErasesHeldKeys, TestHeldSessionsAreBounded
//	no handshake at a takeover              takeover.go  TestTakeoverWithoutHandshake, TestWrongVerdictAndReturn
//	the device fences its old owner         takeover.go  TestLivingOwnerIsFencedByTheDevice, TestFenceHoldsForOlderKeys, TestLastWordUnderOldKeys
//	knocks, and the sender's fence          takeover.go  TestKnocksUnderBothKeys, TestFenceHoldsKnocksBack
//	a replay diverts nothing                respond.go   TestReplayDivertsNothing
//	paced new keys                          takeover.go  TestRenewalsArePaced
//	floors before the replay filter         floor.go     TestFloors, FuzzRaiseFloors
//	colliding indices                       index.go     TestCollidingIndices
//	quiet: muted, or exported for good      quiet.go     TestMute, TestOwnInitiationEndsMute, TestPlannedHandOverLosesNothing, TestFailedHandOverIsTakenBack
//	alone: no handshake unless heard        quiet.go     TestAloneBeginsNothing
//	unknown indices, at a bounded rate      stranger.go  TestUnknownMessagesAreTold
//
// # Locks
//
// Locks are held for computation only, never across a channel, a callback or a system call; the exceptions are
// Config.Now, and waking a goroutine through a channel that has room or is skipped. Order, where two are held: device
// state (peer.mu), then any of index table, pending handshakes, allowed IPs, schedule, outbox, requests, vault, a
// keypair's sealer or opener; vault, then opener. The map of devices (Gateway.mu) is held alone.
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
//
// Cookies as their sender, under load, are not made yet.
package vpn
