// peer respond|request PORT TOPIC RESPONSE_TOPIC, with the rpc extension of paho.golang. The extension chooses
// the response topic itself.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/eclipse/paho.golang/paho/extensions/rpc"
)

type answer struct {
	Sent           string            `json:"sent"`
	Payload        string            `json:"payload"`
	ContentType    *string           `json:"content_type"`
	UserProperties map[string]string `json:"user_properties"`
}

func main() {
	role, port, topic := os.Args[1], os.Args[2], os.Args[3]
	ctx := context.Background()
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	check(err)
	client := paho.NewClient(paho.ClientConfig{Conn: conn, ClientID: fmt.Sprintf("paho-golang-%d", os.Getpid())})
	_, err = client.Connect(ctx, &paho.Connect{ClientID: client.ClientID(), CleanStart: true, KeepAlive: 30})
	check(err)
	if role == "respond" {
		respond(ctx, client, topic)
	}
	ask(ctx, client, topic)
}

func respond(ctx context.Context, client *paho.Client, topic string) {
	client.AddOnPublishReceived(func(received paho.PublishReceived) (bool, error) {
		request := received.Packet
		// Not from here: the acknowledgement of the response is read by the goroutine that calls this.
		go func() {
			_, err := client.Publish(ctx, &paho.Publish{
				Topic:      request.Properties.ResponseTopic,
				QoS:        1,
				Payload:    bytes.ToUpper(request.Payload),
				Properties: &paho.PublishProperties{CorrelationData: request.Properties.CorrelationData},
			})
			check(err)
		}()
		return true, nil
	})
	_, err := client.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: topic, QoS: 1}}})
	check(err)
	fmt.Println("ready")
	select {}
}

func ask(ctx context.Context, client *paho.Client, topic string) {
	handler, err := rpc.NewHandler(ctx, client)
	check(err)
	var group sync.WaitGroup
	for _, payload := range []string{"on", "off", "bad"} {
		group.Add(1)
		go func() {
			defer group.Done()
			limited, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			response, err := handler.Request(limited, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte(payload)})
			check(err)
			found := answer{Sent: payload, Payload: string(response.Payload), UserProperties: map[string]string{}}
			if response.Properties.ContentType != "" {
				found.ContentType = &response.Properties.ContentType
			}
			for _, property := range response.Properties.User {
				found.UserProperties[property.Key] = property.Value
			}
			line, err := json.Marshal(found)
			check(err)
			fmt.Println(string(line))
		}()
	}
	group.Wait()
	check(client.Disconnect(&paho.Disconnect{}))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
