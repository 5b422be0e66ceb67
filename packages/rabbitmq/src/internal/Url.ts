/**
 * Parses the address of RabbitMQ, `amqp://user:password@host:port/vhost`, with one error sentence for each mistake.
 */
import { DriverOptions } from "@millrace/core"

const { bad, decoded } = DriverOptions

/** One node. */
export interface Node {
  readonly host: string
  readonly port: number
}

const host = /^(\[[0-9a-fA-F:.]+\]|[^\s:/@,[\]]+)(?::(\d{1,5}))?$/

const shape = `url must be amqp://user:password@host:port/vhost, or amqps:// for TLS`

/** The parts of a URL. */
export interface Parts {
  readonly nodes: ReadonlyArray<Node>
  readonly vhost: string
  readonly username: string | undefined
  readonly password: string | undefined
  readonly isSecure: boolean
}

/** URL parameters of other clients, with the option that replaces each. */
const parameters: Readonly<Record<string, string>> = {
  heartbeat: `heartbeat: "30 seconds"`,
  connection_timeout: `connectTimeout: "10 seconds"`,
  auth_mechanism: `authentication: "external"`,
  cacertfile: "tls.ca",
  certfile: "tls.cert",
  keyfile: "tls.key",
  verify: "tls",
  server_name_indication: "tls.serverName",
  frameMax: "none: the server's is taken",
  frame_max: "none: the server's is taken",
  channelMax: "none: the server's is taken",
  channel_max: "none: the server's is taken",
  locale: "none: it changes nothing"
}

/** Refuses common mistakes after the address; a question mark within a password is allowed. */
const refuseEnd = (given: string): void => {
  const query = /^amqps?:\/\/(?:[^@/?#]*@)?[^/?#@]+(?:\/[^?#@]*)?\?([^@]*)$/i.exec(given)?.[1]
  if (query !== undefined) {
    const named = query.split("&").map((each) => each.split("=")[0]!).filter((name) => Object.hasOwn(parameters, name))
    const instead = named.map((name) => `${name} (the option ${parameters[name]})`).join(", ")
    bad(
      `url has parameters behind "?", and this client takes none from it: leave them out${
        instead === "" ? "" : `, and say as an option: ${instead}`
      }`
    )
  }
  if (/^amqps?:\/\/(?:[^@/?#]*@)?[^/?#@]+\/[^?#@]*\/[^?#@]*$/i.test(given)) {
    bad(
      `url names a virtual host with a "/", which is written %2F: the virtual host / is /%2F, or left out with its slash`
    )
  }
}

// errors never show a wrong URL: it may hold the password
export const taken = (given: string): Parts => {
  refuseEnd(given.trim())
  const found = /^(amqps?):\/\/(?:([^@/?#]*)@)?([^/?#@]+)(?:\/([^?#/]*))?$/i.exec(given.trim())
  if (found === null) {
    return bad(`${shape}; "@", "/", "?" and "#" within user, password and vhost are percent-encoded`)
  }
  const [, scheme, user, hosts = "", vhost] = found
  const isSecure = scheme?.toLowerCase() === "amqps"
  const nodes = hosts.split(",").map((each): Node => {
    const [, name, port] = host.exec(each.trim()) ?? bad(`${shape}; a host in it is no host:port`)
    const number = port === undefined ? (isSecure ? 5671 : 5672) : Number(port)
    if (number < 1 || number > 65_535) bad(`a port in url must be from 1 to 65535, got ${number}`)
    return { host: name!.replace(/^\[|\]$/g, ""), port: number }
  })
  const colon = user?.indexOf(":") ?? -1
  if (user !== undefined && user !== "" && colon < 0) bad("url names a user without a password: write user:password@")
  return {
    nodes,
    vhost: vhost === undefined || vhost === "" ? "/" : decoded("virtual host in url", vhost),
    username: user === undefined || user === "" ? undefined : decoded("user in url", user.slice(0, colon)),
    password: user === undefined || user === "" ? undefined : decoded("password in url", user.slice(colon + 1)),
    isSecure
  }
}
