import com.hivemq.client.mqtt.MqttClient;
import com.hivemq.client.mqtt.datatypes.MqttQos;
import com.hivemq.client.mqtt.mqtt5.Mqtt5AsyncClient;
import com.hivemq.client.mqtt.mqtt5.message.publish.Mqtt5Publish;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;

/** Peer respond|request PORT TOPIC RESPONSE_TOPIC */
public class Peer {
    public static void main(String[] arguments) throws Exception {
        Mqtt5AsyncClient client = MqttClient.builder()
                .useMqttVersion5()
                .serverHost("127.0.0.1")
                .serverPort(Integer.parseInt(arguments[1]))
                .buildAsync();
        client.connect().get();
        if (arguments[0].equals("respond")) {
            respond(client, arguments[2]);
        } else {
            request(client, arguments[2], arguments[3]);
        }
    }

    private static void respond(Mqtt5AsyncClient client, String topic) throws Exception {
        client.subscribeWith().topicFilter(topic).qos(MqttQos.AT_LEAST_ONCE).callback(request -> client.publishWith()
                .topic(request.getResponseTopic().orElseThrow())
                .qos(MqttQos.AT_LEAST_ONCE)
                .correlationData(request.getCorrelationData().orElse(null))
                .payload(text(request).toUpperCase().getBytes(StandardCharsets.UTF_8))
                .send()).send().get();
        System.out.println("ready");
        new CountDownLatch(1).await();
    }

    private static void request(Mqtt5AsyncClient client, String topic, String responseTopic) throws Exception {
        Map<ByteBuffer, String> sent = new ConcurrentHashMap<>();
        CountDownLatch answered = new CountDownLatch(3);
        client.subscribeWith().topicFilter(responseTopic).qos(MqttQos.AT_LEAST_ONCE).callback(response -> {
            System.out.println(json(sent.get(response.getCorrelationData().orElseThrow()), response));
            answered.countDown();
        }).send().get();
        byte number = 0;
        for (String payload : List.of("on", "off", "bad")) {
            byte[] data = {0, (byte) 0xff, number++};
            sent.put(ByteBuffer.wrap(data).asReadOnlyBuffer(), payload);
            client.publishWith().topic(topic).qos(MqttQos.AT_LEAST_ONCE).payload(payload.getBytes())
                    .responseTopic(responseTopic).correlationData(data).send();
        }
        answered.await();
        client.disconnect().get();
    }

    private static String text(Mqtt5Publish message) {
        return new String(message.getPayloadAsBytes(), StandardCharsets.UTF_8);
    }

    private static String json(String sent, Mqtt5Publish response) {
        List<String> properties = new ArrayList<>();
        response.getUserProperties().asList().forEach(property ->
                properties.add(quote(property.getName().toString()) + ":" + quote(property.getValue().toString())));
        String contentType = response.getContentType().map(type -> quote(type.toString())).orElse("null");
        return "{\"sent\":" + quote(sent) + ",\"payload\":" + quote(text(response)) + ",\"content_type\":"
                + contentType + ",\"user_properties\":{" + String.join(",", properties) + "}}";
    }

    private static String quote(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }
}
