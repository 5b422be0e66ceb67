// Asks a server on the same machine for the same thing again and again, over 32 connections that stay open; told how often by
// its parent, which measures itself only.
import { connect } from "node:net"

const connections = 32
const port = Number(process.argv[2])
const request = Buffer.from(
  "GET /orders/7 HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: application/json\r\nx-correlation-id: 0af7651916cd43dd8448eb211c80319c\r\n" +
    "idempotency-key: 7f3a\r\n\r\n"
)

/** Sends `count` requests, one at a time on each connection, and answers how many were not answered with 200. */
const ask = (count: number): Promise<number> =>
  new Promise((resolve, reject) => {
    let toSend = count
    let toCome = count
    let wrong = 0
    for (let i = 0; i < connections; i++) {
      const socket = connect(port, "127.0.0.1")
      let text = ""
      const send = () => {
        if (toSend <= 0) return void socket.end()
        toSend -= 1
        socket.write(request)
      }
      socket.setNoDelay(true)
      socket.on("error", reject)
      socket.on("close", () => toSend > 0 ? reject(new Error("a connection was closed")) : undefined)
      socket.on("connect", send)
      socket.on("data", (chunk) => {
        text += chunk.toString("latin1")
        const head = text.indexOf("\r\n\r\n")
        if (head < 0) return
        const length = /content-length: (\d+)/i.exec(text)?.[1]
        if (length === undefined || text.length < head + 4 + Number(length)) return
        if (!text.startsWith("HTTP/1.1 200") || !/x-correlation-id: 0af7/i.test(text)) wrong += 1
        text = ""
        send()
        if (--toCome === 0) resolve(wrong)
      })
    }
  })

process.on("message", (count) => void ask(Number(count)).then((wrong) => process.send?.(wrong)))
