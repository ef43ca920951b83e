// peer respond|request PORT TOPIC RESPONSE_TOPIC
//
// With MQTTAsync, whose calls do not wait: a responder may publish from the callback that brings the request.
#include <MQTTAsync.h>
#include <ctype.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 3, WAIT_SECONDS = 5 };

static char *const requests[COUNT] = {"on", "off", "bad"};
static MQTTAsync client;
static char *topic, *response_topic;
static sem_t subscribed, answered, disconnected;

static void check(int ok, const char *what, int code) {
    if (ok) return;
    fprintf(stderr, "%s: %d\n", what, code);
    exit(1);
}

static void failed(void *what, MQTTAsync_failureData5 *failure) { check(0, what, failure->reasonCode); }

static void lost(void *context, char *cause) {
    (void)context;
    check(0, cause ? cause : "connection lost", 0);
}

static MQTTLenString string(char *text) { return (MQTTLenString){(int)strlen(text), text}; }

static void add(MQTTProperties *properties, enum MQTTPropertyCodes identifier, MQTTLenString data) {
    MQTTProperty property = {.identifier = identifier, .value.data = data};
    int code = MQTTProperties_add(properties, &property);
    check(code == 0, "MQTTProperties_add", code);
}

// A property that has to be there.
static MQTTLenString get(MQTTAsync_message *message, enum MQTTPropertyCodes identifier) {
    MQTTProperty *found = MQTTProperties_getProperty(&message->properties, identifier);
    check(found != NULL, "a message without property", identifier);
    return found->value.data;
}

static void publish(const char *name, MQTTLenString payload, MQTTProperties *properties) {
    MQTTAsync_message message = MQTTAsync_message_initializer;
    message.payload = payload.data;
    message.payloadlen = payload.len;
    message.qos = 1;
    message.properties = *properties;
    MQTTAsync_callOptions options = MQTTAsync_callOptions_initializer;
    options.onFailure5 = failed;
    options.context = "publish";
    int code = MQTTAsync_sendMessage(client, name, &message, &options);
    check(code == MQTTASYNC_SUCCESS, "publish", code);
    MQTTProperties_free(properties);
}

static void respond(MQTTAsync_message *request) {
    MQTTLenString found = get(request, MQTTPROPERTY_CODE_RESPONSE_TOPIC);
    // Not terminated in the packet.
    char name[256];
    snprintf(name, sizeof name, "%.*s", found.len, found.data);
    MQTTLenString payload = {request->payloadlen, request->payload};
    for (int i = 0; i < payload.len; i++) payload.data[i] = (char)toupper((unsigned char)payload.data[i]);
    MQTTProperties properties = MQTTProperties_initializer;
    add(&properties, MQTTPROPERTY_CODE_CORRELATION_DATA, get(request, MQTTPROPERTY_CODE_CORRELATION_DATA));
    publish(name, payload, &properties);
}

static void request(int number) {
    char data[] = {0, (char)0xff, (char)number};
    MQTTProperties properties = MQTTProperties_initializer;
    add(&properties, MQTTPROPERTY_CODE_RESPONSE_TOPIC, string(response_topic));
    add(&properties, MQTTPROPERTY_CODE_CORRELATION_DATA, (MQTTLenString){sizeof data, data});
    publish(topic, string(requests[number]), &properties);
}

static void print_json(MQTTLenString text) {
    putchar('"');
    for (int i = 0; i < text.len; i++) {
        if (text.data[i] == '"' || text.data[i] == '\\') putchar('\\');
        putchar(text.data[i]);
    }
    putchar('"');
}

static void print_response(MQTTAsync_message *response) {
    MQTTLenString data = get(response, MQTTPROPERTY_CODE_CORRELATION_DATA);
    int known = data.len == 3 && memcmp(data.data, "\0\xff", 2) == 0 && data.data[2] < COUNT;
    check(known, "Correlation Data of somebody else, of length", data.len);
    printf("{\"sent\": \"%s\", \"payload\": ", requests[(int)data.data[2]]);
    print_json((MQTTLenString){response->payloadlen, response->payload});
    MQTTProperties *properties = &response->properties;
    MQTTProperty *content_type = MQTTProperties_getProperty(properties, MQTTPROPERTY_CODE_CONTENT_TYPE);
    printf(", \"content_type\": ");
    if (content_type != NULL)
        print_json(content_type->value.data);
    else
        printf("null");
    printf(", \"user_properties\": {");
    int count = MQTTProperties_propertyCount(properties, MQTTPROPERTY_CODE_USER_PROPERTY);
    for (int i = 0; i < count; i++) {
        MQTTProperty *user = MQTTProperties_getPropertyAt(properties, MQTTPROPERTY_CODE_USER_PROPERTY, i);
        if (i > 0) printf(", ");
        print_json(user->value.data);
        printf(": ");
        print_json(user->value.value);
    }
    puts("}}");
}

static int arrived(void *role, char *name, int length, MQTTAsync_message *message) {
    (void)length;
    if (strcmp(role, "respond") == 0) {
        respond(message);
    } else {
        print_response(message);
        sem_post(&answered);
    }
    MQTTAsync_freeMessage(&message);
    MQTTAsync_free(name);
    return 1;
}

static void on_subscribed(void *context, MQTTAsync_successData5 *success) {
    (void)context;
    check(success->reasonCode == MQTTREASONCODE_GRANTED_QOS_1, "subscribe", success->reasonCode);
    sem_post(&subscribed);
}

static void on_connected(void *filter, MQTTAsync_successData5 *success) {
    (void)success;
    MQTTAsync_callOptions options = MQTTAsync_callOptions_initializer;
    options.onSuccess5 = on_subscribed;
    options.onFailure5 = failed;
    options.context = "subscribe";
    int code = MQTTAsync_subscribe(client, filter, 1, &options);
    check(code == MQTTASYNC_SUCCESS, "subscribe", code);
}

static void on_disconnected(void *context, MQTTAsync_successData5 *success) {
    (void)context, (void)success;
    sem_post(&disconnected);
}

static void connect_and_subscribe(const char *port, char *role) {
    char url[64], client_id[32];
    snprintf(url, sizeof url, "tcp://127.0.0.1:%s", port);
    snprintf(client_id, sizeof client_id, "paho-c-%ld", (long)getpid());
    MQTTAsync_createOptions create = MQTTAsync_createOptions_initializer5;
    int persistence = MQTTCLIENT_PERSISTENCE_NONE;
    int code = MQTTAsync_createWithOptions(&client, url, client_id, persistence, NULL, &create);
    check(code == MQTTASYNC_SUCCESS, "create", code);
    MQTTAsync_setCallbacks(client, role, lost, arrived, NULL);
    MQTTAsync_connectOptions options = MQTTAsync_connectOptions_initializer5;
    options.cleanstart = 1;
    options.onSuccess5 = on_connected;
    options.onFailure5 = failed;
    options.context = strcmp(role, "respond") == 0 ? topic : response_topic;
    code = MQTTAsync_connect(client, &options);
    check(code == MQTTASYNC_SUCCESS, "connect", code);
}

static void wait_for(sem_t *event, const char *what) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_SECONDS;
    check(sem_timedwait(event, &until) == 0, what, WAIT_SECONDS);
}

int main(int argc, char **argv) {
    check(argc == 5, "four arguments, not", argc - 1);
    char *role = argv[1];
    topic = argv[3];
    response_topic = argv[4];
    sem_init(&subscribed, 0, 0);
    sem_init(&answered, 0, 0);
    sem_init(&disconnected, 0, 0);
    connect_and_subscribe(argv[2], role);
    wait_for(&subscribed, "not subscribed within seconds");
    if (strcmp(role, "respond") == 0) {
        puts("ready");
        fflush(stdout);
        for (;;) pause();
    }
    for (int i = 0; i < COUNT; i++) request(i);
    for (int i = 0; i < COUNT; i++) wait_for(&answered, "no response within seconds");
    MQTTAsync_disconnectOptions options = MQTTAsync_disconnectOptions_initializer5;
    options.onSuccess5 = on_disconnected;
    options.onFailure5 = failed;
    options.context = "disconnect";
    int code = MQTTAsync_disconnect(client, &options);
    check(code == MQTTASYNC_SUCCESS, "disconnect", code);
    wait_for(&disconnected, "not disconnected within seconds");
    MQTTAsync_destroy(&client);
    return 0;
}
