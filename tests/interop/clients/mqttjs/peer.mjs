// node peer.mjs respond|request PORT TOPIC RESPONSE_TOPIC
import mqtt from 'mqtt'

const [role, port, topic, responseTopic] = process.argv.slice(2)
const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${port}`, { protocolVersion: 5 })

if (role === 'respond') {
  client.on('message', (_topic, payload, { properties }) => {
    const { responseTopic, correlationData } = properties
    client.publish(responseTopic, payload.toString().toUpperCase(), { qos: 1, properties: { correlationData } })
  })
  await client.subscribeAsync(topic, { qos: 1 })
  console.log('ready')
} else {
  const sent = new Map(['on', 'off', 'bad'].map((payload, n) => [`00ff0${n}`, payload]))
  client.on('message', async (_topic, payload, { properties }) => {
    const key = properties.correlationData.toString('hex')
    console.log(JSON.stringify({
      sent: sent.get(key),
      payload: payload.toString(),
      content_type: properties.contentType ?? null,
      user_properties: properties.userProperties ?? {}
    }))
    sent.delete(key)
    if (sent.size === 0) await client.endAsync()
  })
  await client.subscribeAsync(responseTopic, { qos: 1 })
  for (const [key, payload] of sent) {
    const properties = { responseTopic, correlationData: Buffer.from(key, 'hex') }
    client.publish(topic, payload, { qos: 1, properties })
  }
}
