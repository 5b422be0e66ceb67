import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { afterAll, beforeAll } from "vitest"

/** A request to the server. */
export interface Asked {
  readonly call: string
  readonly body: { readonly [key: string]: unknown } | undefined
}

/** The answer to a call such as `POST /subjects/orders-value`; undefined answers 404. */
export type Answers = (asked: Asked) => object | undefined

/** A server that answers as told, for what no free registry has or does; `calls` are its requests. */
export const registryServer = () => {
  const state = { url: "", calls: [] as Array<Asked>, answers: (() => undefined) as Answers }
  const server = createServer((request, response) => {
    let text = ""
    request.setEncoding("utf8").on("data", (part: string) => text += part).on("end", () => {
      const asked = { call: `${request.method} ${request.url}`, body: text === "" ? undefined : JSON.parse(text) }
      state.calls.push(asked)
      const answer = state.answers(asked)
      response.writeHead(answer === undefined ? 404 : 200, { "content-type": "application/json" })
      response.end(JSON.stringify(answer ?? { error_code: 40403, message: "not found" }))
    })
  })
  beforeAll(async () => {
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
    state.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })
  return state
}
