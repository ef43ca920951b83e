import io.moquette.broker.Server;
import io.moquette.broker.config.MemoryConfig;
import java.util.Properties;

/** Broker PORT ...: the other arguments do not matter, since nobody gets in. */
public class Broker {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("host", "127.0.0.1");
        properties.setProperty("port", arguments[0]);
        properties.setProperty("persistence_enabled", "false");
        properties.setProperty("telemetry_enabled", "false");
        new Server().startServer(new MemoryConfig(properties));
        System.out.println("ready");
    }
}
