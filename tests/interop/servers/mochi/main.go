// mochi PORT WS_PORT TLS_PORT CERTIFICATE KEY MAXIMUM_PACKET_SIZE RESPONSE_INFORMATION
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strconv"
	"strings"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// policy lets everybody in, keeps them from denied/..., and hands out Response Information.
type policy struct {
	mqtt.HookBase
	responseInformation string
}

func (p *policy) ID() string { return "policy" }

func (p *policy) Provides(what byte) bool {
	return what == mqtt.OnConnectAuthenticate || what == mqtt.OnACLCheck || what == mqtt.OnPacketEncode
}

func (p *policy) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

func (p *policy) OnACLCheck(_ *mqtt.Client, topic string, _ bool) bool {
	return !strings.HasPrefix(topic, "denied/")
}

func (p *policy) OnPacketEncode(_ *mqtt.Client, packet packets.Packet) packets.Packet {
	if packet.FixedHeader.Type == packets.Connack {
		packet.Properties.ResponseInfo = p.responseInformation
	}
	return packet
}

func main() {
	arguments := os.Args[1:]
	maximum, err := strconv.ParseUint(arguments[5], 10, 32)
	check(err)
	certificate, err := tls.LoadX509KeyPair(arguments[3], arguments[4])
	check(err)

	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumPacketSize = uint32(maximum)
	// Else the PUBACK of a message with User Properties has them, too, and with them a reason code that no
	// PUBACK may have (0x01 at QoS 1) [MQTT-3.4.2-1].
	capabilities.Compatibilities.NoInheritedPropertiesOnAck = true
	server := mqtt.New(&mqtt.Options{
		Capabilities: capabilities,
		Logger:       slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	check(server.AddHook(&policy{responseInformation: arguments[6]}, nil))
	at := func(id string, port string) listeners.Config {
		return listeners.Config{ID: id, Address: "127.0.0.1:" + port}
	}
	secure := at("tls", arguments[2])
	secure.TLSConfig = &tls.Config{Certificates: []tls.Certificate{certificate}}
	check(server.AddListener(listeners.NewTCP(at("tcp", arguments[0]))))
	check(server.AddListener(listeners.NewWebsocket(at("ws", arguments[1]))))
	check(server.AddListener(listeners.NewTCP(secure)))
	check(server.Serve())
	fmt.Println("ready")
	select {}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
