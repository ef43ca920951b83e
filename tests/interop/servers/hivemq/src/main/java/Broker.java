import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.auth.parameter.TopicPermission;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import com.hivemq.extension.sdk.api.services.builder.Builders;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CountDownLatch;

/** Broker PORT WS_PORT TLS_PORT KEYSTORE PASSWORD MAXIMUM_PACKET_SIZE RESPONSE_INFORMATION */
public class Broker {
    public static void main(String[] arguments) throws Exception {
        Path folder = Files.createTempDirectory("hivemq");
        Files.writeString(folder.resolve("config.xml"), """
                <hivemq>
                  <listeners>
                    <tcp-listener><port>%s</port><bind-address>127.0.0.1</bind-address></tcp-listener>
                    <websocket-listener>
                      <port>%s</port><bind-address>127.0.0.1</bind-address><path>/mqtt</path>
                      <subprotocols><subprotocol>mqtt</subprotocol></subprotocols>
                    </websocket-listener>
                    <tls-tcp-listener>
                      <port>%s</port><bind-address>127.0.0.1</bind-address>
                      <tls><keystore>
                        <path>%s</path><password>%5$s</password><private-key-password>%5$s</private-key-password>
                      </keystore></tls>
                    </tls-tcp-listener>
                  </listeners>
                  <mqtt><packets><max-packet-size>%6$s</max-packet-size></packets></mqtt>
                  <persistence><mode>in-memory</mode></persistence>
                  <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics>
                </hivemq>
                """.formatted((Object[]) arguments));
        EmbeddedExtension policy = EmbeddedExtension.builder()
                .withId("policy").withName("policy").withVersion("0").withPriority(0).withStartPriority(0)
                .withAuthor("interop").withExtensionMain(new Policy(arguments[6])).build();
        EmbeddedHiveMQ broker = EmbeddedHiveMQ.builder()
                .withConfigurationFolder(folder)
                .withDataFolder(Files.createDirectory(folder.resolve("data")))
                .withExtensionsFolder(Files.createDirectory(folder.resolve("extensions")))
                .withEmbeddedExtension(policy)
                .build();
        broker.start().join();
        System.out.println("ready");
        new CountDownLatch(1).await();
    }

    /** Lets everybody in, keeps them from denied/..., and hands out Response Information. */
    private record Policy(String responseInformation) implements ExtensionMain {
        @Override
        public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            Services.securityRegistry().setAuthenticatorProvider(provider -> (SimpleAuthenticator) (in, out) -> {
                out.getDefaultPermissions().add(Builders.topicPermission()
                        .topicFilter("denied/#").type(TopicPermission.PermissionType.DENY).build());
                out.getDefaultPermissions().add(Builders.topicPermission()
                        .topicFilter("#").type(TopicPermission.PermissionType.ALLOW).build());
                out.authenticateSuccessfully();
            });
            Services.interceptorRegistry().setConnackOutboundInterceptorProvider(provider -> (in, out) -> {
                try {
                    out.getConnackPacket().setResponseInformation(responseInformation);
                } catch (IllegalStateException notAskedFor) {
                    // It is only for those who asked [MQTT-3.1.2-28].
                }
            });
        }

        @Override
        public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}
    }
}
