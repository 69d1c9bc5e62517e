// Package node is one running gateway: it joins what the gateways agree on
// (cluster), how they talk (mesh) and how packets flow (vpn), and decides with
// their help who answers a device.
//
//	            api.Service
//	                 │
//	store ◄──── node.Run ────► mesh ◄──► other gateways
//	  │   reconcile  │  steer
//	  └──────► vpn ◄─┘  take over
//	            ▲
//	         devices
//
// It is the only package that knows all three. It knows no packet format and
// no merge rule; those are theirs.
package node
