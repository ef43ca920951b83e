// node broker.mjs PORT WS_PORT TLS_PORT CERTIFICATE KEY MAXIMUM_PACKET_SIZE RESPONSE_INFORMATION
import { readFileSync } from 'node:fs'
import { createServer as createHttp } from 'node:http'
import { createServer } from 'node:net'
import { createServer as createTls } from 'node:tls'
import { Aedes } from 'aedes'
import { createWebSocketStream, WebSocketServer } from 'ws'

const [port, wsPort, tlsPort, cert, key, maximum, responseInformation] = process.argv.slice(2)
const denied = topic => topic.startsWith('denied/')

const broker = await Aedes.createBroker({
  maximumPacketSize: Number(maximum),
  responseInformation,
  authorizeSubscribe: (_client, subscription, done) => done(null, denied(subscription.topic) ? null : subscription),
  authorizePublish: (_client, packet, done) => done(denied(packet.topic) ? new Error('denied') : null)
})

const http = createHttp()
new WebSocketServer({ server: http, handleProtocols: () => 'mqtt' }).on('connection', (socket, request) =>
  broker.handle(createWebSocketStream(socket), request))

const listen = (server, on) => new Promise(resolve => server.listen(Number(on), '127.0.0.1', resolve))
const tls = createTls({ cert: readFileSync(cert), key: readFileSync(key) }, broker.handle)
await Promise.all([listen(createServer(broker.handle), port), listen(http, wsPort), listen(tls, tlsPort)])
console.log('ready')
