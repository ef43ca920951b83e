import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import org.eclipse.paho.mqttv5.client.IMqttToken;
import org.eclipse.paho.mqttv5.client.MqttAsyncClient;
import org.eclipse.paho.mqttv5.client.MqttCallback;
import org.eclipse.paho.mqttv5.client.MqttDisconnectResponse;
import org.eclipse.paho.mqttv5.client.persist.MemoryPersistence;
import org.eclipse.paho.mqttv5.common.MqttException;
import org.eclipse.paho.mqttv5.common.MqttMessage;
import org.eclipse.paho.mqttv5.common.packet.MqttProperties;

/** Peer respond|request PORT TOPIC RESPONSE_TOPIC */
public class Peer implements MqttCallback {
    private final MqttAsyncClient client;
    private final boolean responds;
    private final Map<ByteBuffer, String> sent = new ConcurrentHashMap<>();
    private final ExecutorService responses = Executors.newSingleThreadExecutor(work -> {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        return thread;
    });
    private final CountDownLatch answered = new CountDownLatch(3);

    private Peer(String role, String port) throws MqttException {
        responds = role.equals("respond");
        client = new MqttAsyncClient("tcp://127.0.0.1:" + port, "paho-java-" + role, new MemoryPersistence());
        client.setCallback(this);
        client.connect().waitForCompletion();
    }

    public static void main(String[] arguments) throws Exception {
        Peer peer = new Peer(arguments[0], arguments[1]);
        if (peer.responds) {
            peer.client.subscribe(arguments[2], 1).waitForCompletion();
            System.out.println("ready");
        } else {
            peer.request(arguments[2], arguments[3]);
        }
    }

    private void request(String topic, String responseTopic) throws Exception {
        client.subscribe(responseTopic, 1).waitForCompletion();
        byte number = 0;
        for (String payload : List.of("on", "off", "bad")) {
            byte[] data = {0, (byte) 0xff, number++};
            sent.put(ByteBuffer.wrap(data), payload);
            MqttProperties properties = new MqttProperties();
            properties.setResponseTopic(responseTopic);
            properties.setCorrelationData(data);
            client.publish(topic, new MqttMessage(payload.getBytes(), 1, false, properties));
        }
        answered.await();
        client.disconnect().waitForCompletion();
        client.close();
    }

    @Override
    public void messageArrived(String topic, MqttMessage message) {
        MqttProperties asked = message.getProperties();
        if (!responds) {
            System.out.println(json(sent.get(ByteBuffer.wrap(asked.getCorrelationData())), message));
            answered.countDown();
            return;
        }
        MqttProperties properties = new MqttProperties();
        properties.setCorrelationData(asked.getCorrelationData());
        byte[] response = text(message).toUpperCase().getBytes(StandardCharsets.UTF_8);
        // Not from here, and one after another: more than the broker's Receive Maximum (section 4.9) is an
        // exception, and who waits here never hears of the acknowledgement.
        responses.execute(() -> {
            try {
                client.publish(asked.getResponseTopic(), new MqttMessage(response, 1, false, properties))
                        .waitForCompletion();
            } catch (MqttException error) {
                throw new IllegalStateException(error);
            }
        });
    }

    private static String text(MqttMessage message) {
        return new String(message.getPayload(), StandardCharsets.UTF_8);
    }

    private static String json(String sent, MqttMessage response) {
        List<String> properties = new ArrayList<>();
        response.getProperties().getUserProperties().forEach(property ->
                properties.add(quote(property.getKey()) + ":" + quote(property.getValue())));
        String type = response.getProperties().getContentType();
        return "{\"sent\":" + quote(sent) + ",\"payload\":" + quote(text(response)) + ",\"content_type\":"
                + (type == null ? "null" : quote(type))
                + ",\"user_properties\":{" + String.join(",", properties) + "}}";
    }

    private static String quote(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    @Override
    public void disconnected(MqttDisconnectResponse response) {}

    @Override
    public void mqttErrorOccurred(MqttException exception) {}

    @Override
    public void deliveryComplete(IMqttToken token) {}

    @Override
    public void connectComplete(boolean reconnect, String uri) {}

    @Override
    public void authPacketArrived(int code, MqttProperties properties) {}
}
