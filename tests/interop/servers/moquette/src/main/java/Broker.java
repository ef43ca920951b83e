import io.moquette.broker.Server;
import io.moquette.broker.config.MemoryConfig;
import io.moquette.broker.security.AcceptAllAuthenticator;
import io.moquette.broker.security.IAuthorizatorPolicy;
import io.moquette.broker.subscriptions.Topic;
import java.nio.file.Files;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;

/** Broker PORT WS_PORT TLS_PORT KEYSTORE PASSWORD MAXIMUM_PACKET_SIZE RESPONSE_INFORMATION */
public class Broker {
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        settings.setProperty("host", "127.0.0.1");
        settings.setProperty("port", arguments[0]);
        settings.setProperty("websocket_port", arguments[1]);
        settings.setProperty("ssl_port", arguments[2]);
        settings.setProperty("jks_path", arguments[3]);
        settings.setProperty("key_store_type", "pkcs12");
        settings.setProperty("key_store_password", arguments[4]);
        settings.setProperty("key_manager_password", arguments[4]);
        settings.setProperty("netty.mqtt.message_size", arguments[5]);
        settings.setProperty("allow_anonymous", "true");
        settings.setProperty("persistence_enabled", "false");
        settings.setProperty("telemetry_enabled", "false");
        settings.setProperty("data_path", Files.createTempDirectory("moquette").toString());
        new Server().startServer(
                new MemoryConfig(settings), List.of(), null, new AcceptAllAuthenticator(), new Policy());
        System.out.println("ready");
        new CountDownLatch(1).await();
    }

    /** Keeps everybody from denied/... */
    private static class Policy implements IAuthorizatorPolicy {
        @Override
        public boolean canWrite(Topic topic, String user, String client) {
            return !topic.toString().startsWith("denied/");
        }

        @Override
        public boolean canRead(Topic topic, String user, String client) {
            return !topic.toString().startsWith("denied/");
        }
    }
}
