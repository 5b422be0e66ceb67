/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
/**
 * The script of the page. It runs in the browser: `assets.ts` serves the text of the function, so it reads nothing outside of it.
 */
import type uPlot from "uplot"
import type { Setting } from "./assets.ts"
import type { Group, Letter, Letters } from "./letters.ts"
import type { Snapshot } from "./snapshot.ts"

declare global {
  interface Window {
    readonly uPlot: typeof uPlot
  }
}

export const client = (): void => {
  const setting: Setting = JSON.parse(document.body.dataset["setting"] ?? "{}")
  const keptToken = "millrace-token"
  const byId = (id: string): HTMLElement => document.getElementById(id)!
  const status = byId("status")
  const login = byId("login") as HTMLFormElement
  const tokenInput = byId("token") as HTMLInputElement

  type Child = Node | string | number | undefined
  const element = (name: string, attributes: Record<string, string> = {}, ...children: ReadonlyArray<Child>) => {
    const made = document.createElement(name)
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value)
    // texts of errors and bodies are never parsed as HTML
    for (const child of children) {
      if (child !== undefined) made.append(typeof child === "number" ? String(child) : child)
    }
    return made
  }

  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 })
  const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 })
  const count = (value: number | undefined) => value === undefined ? "–" : whole.format(value)
  const figure = (value: number | undefined) => value === undefined ? "–" : short.format(value)
  const time = (at: number) => element("time", { datetime: new Date(at).toISOString() }, new Date(at).toLocaleString())
  const lasting = (seconds: number | undefined) =>
    seconds === undefined
      ? "–"
      : seconds < 90
      ? `${short.format(seconds)} s`
      : seconds < 5400
      ? `${whole.format(seconds / 60)} min`
      : `${whole.format(seconds / 3600)} h`

  interface Column<Row> {
    readonly head: string
    readonly cell: (row: Row) => Child
    readonly kind?: "number" | "wide"
    readonly classOf?: (row: Row) => string
  }

  const table = <Row>(caption: string, rows: ReadonlyArray<Row>, columns: ReadonlyArray<Column<Row>>) =>
    element(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
      element(
        "table",
        {},
        element("caption", {}, caption),
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            ...columns.map(({ head, kind }) => element("th", { scope: "col", class: kind ?? "" }, head))
          )
        ),
        element(
          "tbody",
          {},
          ...rows.map((row) =>
            element(
              "tr",
              {},
              ...columns.map(({ cell, classOf, kind }) =>
                element("td", { class: `${kind ?? ""} ${classOf?.(row) ?? ""}` }, cell(row))
              )
            )
          )
        )
      )
    )

  // a section is built anew only if its data has changed: focus and selection stay
  const drawn = new Map<string, string>()
  const section = (id: string, data: unknown, draw: () => ReadonlyArray<Child>) => {
    const text = JSON.stringify(data)
    if (drawn.get(id) === text) return
    drawn.set(id, text)
    const place = document.querySelector(`#${id} > div:last-of-type`)!
    const open = new Set([...place.querySelectorAll<HTMLDetailsElement>("details[open]")].map(({ id }) => id))
    const focused = document.activeElement?.id
    place.replaceChildren(
      ...draw().filter((child) => child !== undefined).map((child) => typeof child === "number" ? String(child) : child)
    )
    for (const each of place.querySelectorAll("details")) if (open.has(each.id)) each.open = true
    if (focused !== undefined && focused !== "") document.getElementById(focused)?.focus()
  }
  const none = (text: string) => element("p", { class: "dim" }, text)

  const request = async (rest: string, init: RequestInit = {}): Promise<Response> => {
    const token = sessionStorage.getItem(keptToken)
    const headers = new Headers(init.headers)
    if (token !== null) headers.set("authorization", `Bearer ${token}`)
    const response = await fetch(setting.path + rest, { ...init, headers, credentials: "same-origin" })
    if (response.status === 401 || response.status === 403) {
      if (token !== null) byId("login-error").textContent = "The server refused the token."
      sessionStorage.removeItem(keptToken)
      if (login.hidden) {
        login.hidden = false
        tokenInput.focus()
      }
      throw new Error("Log in to see the data")
    }
    if (!response.ok) {
      const problem: { readonly detail?: string; readonly title?: string } = await response.json().catch(() => ({}))
      throw new Error(problem.detail ?? problem.title ?? `The server answered ${response.status}`)
    }
    return response
  }

  // ---- dead letters

  const ask = (title: string, text: string, label: string, isRequired: boolean): Promise<string | undefined> => {
    const dialog = byId("ask") as HTMLDialogElement
    const input = byId("ask-input") as HTMLInputElement
    byId("ask-title").textContent = title
    byId("ask-text").textContent = text
    byId("ask-label").textContent = label
    input.value = ""
    input.required = isRequired
    dialog.returnValue = "cancel"
    dialog.showModal()
    return new Promise((resolve) =>
      dialog.addEventListener(
        "close",
        () => resolve(dialog.returnValue === "ok" ? input.value.trim() : undefined),
        { once: true }
      )
    )
  }

  const act = async (name: "replay" | "discard", channel: string, group: Group, ids: ReadonlyArray<string>) => {
    const what = `${ids.length} of ${group.errorType} in ${channel}`
    const input = name === "replay"
      ? await ask(
        "Replay dead letters",
        `Publishes ${what} again, for the group ${group.group}.`,
        "Another channel (leave empty for the group that failed)",
        false
      )
      : await ask("Discard dead letters", `No replay will publish ${what}.`, "Reason", true)
    if (input === undefined) return
    const more = name === "discard" ? { reason: input } : input === "" ? {} : { to: input }
    try {
      const response = await request(`/dead-letters/${name}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ channel, ids, ...more })
      })
      const counts: Record<string, number> = await response.json()
      const told = Object.entries(counts).filter(([, n]) => n > 0).map(([how, n]) => `${n} ${how}`).join(", ")
      status.textContent = `${name === "replay" ? "Replay" : "Discard"}: ${told || "no letter"}`
    } catch (error) {
      status.textContent = error instanceof Error ? error.message : String(error)
    }
    await readLetters()
  }

  const button = (id: string, text: string, run: () => Promise<void>) => {
    const made = element("button", { type: "button", id }, text)
    made.addEventListener("click", () => void run())
    return made
  }

  const letter = (channel: string, group: Group, each: Letter) =>
    element(
      "details",
      { id: `l-${each.id}` },
      element(
        "summary",
        {},
        `${each.key ?? `position ${each.position}`}, `,
        time(each.at),
        `, attempts: ${each.attempts}`
      ),
      element("p", {}, each.error),
      each.omitted.length > 0 ? element("p", { class: "bad" }, `Without its ${each.omitted.join(" and ")}`) : undefined,
      each.body === undefined ? undefined : element("pre", { "aria-label": "Body" }, each.body),
      ...(setting.canAct
        ? [
          element(
            "p",
            {},
            button(`r-${each.id}`, "Replay this one", () => act("replay", channel, group, [each.id])),
            " ",
            button(`d-${each.id}`, "Discard this one", () => act("discard", channel, group, [each.id]))
          )
        ]
        : [])
    )

  const letterGroup = (channel: string, group: Group, i: number) =>
    element(
      "details",
      { id: `g-${channel}-${group.id}` },
      element(
        "summary",
        {},
        element("strong", {}, `${count(group.count)} × ${group.errorType}`),
        ` ${group.message} `,
        element(
          "span",
          { class: "dim" },
          `(${group.channel}, group ${group.group || "unknown"}, last `,
          time(group.last),
          ")"
        )
      ),
      ...(setting.canAct
        ? [
          element(
            "p",
            {},
            button(`rg-${channel}-${i}`, `Replay ${count(group.ids.length)}`, () =>
              act("replay", channel, group, group.ids)),
            " ",
            button(`dg-${channel}-${i}`, `Discard ${count(group.ids.length)}`, () =>
              act("discard", channel, group, group.ids))
          )
        ]
        : []),
      ...group.letters.map((each) =>
        letter(channel, group, each)
      ),
      group.count > group.letters.length ? none(`and ${count(group.count - group.letters.length)} more`) : undefined
    )

  const readLetters = async () => {
    const { channels }: { readonly channels: ReadonlyArray<Letters> } = await (await request("/dead-letters")).json()
    section("dead-letters", channels.map(({ at: _, ...rest }) => rest), () =>
      channels.length === 0
        ? [none("The program has no subscription.")]
        : channels.flatMap((each) => [
          element(
            "p",
            {},
            element("strong", { class: each.open > 0 ? "bad" : "" }, each.channel),
            each.error === undefined
              ? `: ${count(each.open)}${each.more ? " or more" : ""} open, ${count(each.replayed)} replayed, ${
                count(each.discarded)
              } discarded`
              : element("span", { class: "bad" }, `: ${each.error}`)
          ),
          element("div", {}, ...each.groups.map((group, i) => letterGroup(each.channel, group, i)))
        ]))
  }

  // ---- all the rest

  let before: Snapshot | undefined

  const drawSubscriptions = ({ subscriptions }: Snapshot) => {
    const still = subscriptions.flatMap(({ lanes, name }) => lanes.map((lane) => ({ name, ...lane })))
    section("subscriptions", [subscriptions, still.length > 0 ? Date.now() : 0], () => [
      subscriptions.length === 0 ?
        none("The program has no subscription.") :
        table("Consumers of this process", subscriptions, [
          { head: "Name", cell: ({ name }) => name },
          {
            head: "State",
            cell: ({ pauses, state }) => pauses.length > 0 ? `${state} (${pauses.join(", ")})` : state,
            classOf: ({ state }) => state
          },
          { head: "Channel", cell: ({ channel }) => channel },
          { head: "Group", cell: ({ group }) => group },
          { head: "Broker", cell: ({ system }) => system },
          { head: "Lag", cell: ({ lag }) => count(lag), kind: "number" },
          { head: "Oldest", cell: ({ age }) => lasting(age), kind: "number" },
          { head: "Messages/s", cell: ({ rate }) => figure(rate), kind: "number" },
          { head: "In flight", cell: ({ pending }) => count(pending), kind: "number" },
          { head: "Settled", cell: ({ settled }) => count(settled), kind: "number" },
          {
            head: "Stuck",
            cell: ({ stuck }) => count(stuck),
            kind: "number",
            classOf: ({ stuck }) => stuck > 0 ? "bad" : ""
          },
          { head: "Dead letters", cell: ({ deadLetters }) => count(deadLetters), kind: "number" },
          { head: "Restarts", cell: ({ restarts }) => count(restarts), kind: "number" },
          { head: "Last error", cell: ({ lastError }) => lastError, kind: "wide" }
        ]),
      still.length === 0 ? undefined : table("Messages that wait or run", still, [
        { head: "Subscription", cell: ({ name }) => name },
        { head: "Partition", cell: ({ partition }) => partition, kind: "number" },
        { head: "Position", cell: ({ position }) => position, kind: "number" },
        { head: "Key", cell: ({ key }) => key },
        { head: "State", cell: ({ state }) => state },
        { head: "For", cell: ({ since }) => lasting((Date.now() - since) / 1000), kind: "number" },
        { head: "Attempt", cell: ({ attempt }) => attempt, kind: "number" },
        { head: "Behind it", cell: ({ behind }) => count(behind), kind: "number" },
        { head: "Error", cell: ({ error }) => error, kind: "wide" }
      ])
    ])
  }

  let plot: uPlot | undefined
  let plotted = ""
  const drawTrend = (
    hours: ReadonlyArray<{ readonly from: number; readonly errors: number; readonly dayBefore: number }>
  ) => {
    const text = JSON.stringify(hours)
    if (text === plotted) return
    plotted = text
    const place = byId("trend")
    const total = hours.reduce((sum, { errors }) => sum + errors, 0)
    const most = hours.reduce((top, each) => each.errors > top.errors ? each : top, hours[0]!)
    place.setAttribute(
      "aria-label",
      `Errors in the last 24 hours: ${count(total)}; most in the hour from ${
        new Date(most.from).toLocaleTimeString()
      }: ${count(most.errors)}`
    )
    const data: uPlot.AlignedData = [
      hours.map(({ from }) => from / 1000),
      hours.map(({ errors }) => errors),
      hours.map(({ dayBefore }) => dayBefore)
    ]
    if (plot !== undefined) return plot.setData(data)
    const color = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim()
    const axis = {
      stroke: () => color("--dim"),
      grid: { stroke: () => color("--line") },
      ticks: { stroke: () => color("--line") }
    }
    const width = () => Math.max(280, place.clientWidth)
    plot = new window.uPlot(
      {
        width: width(),
        height: 180,
        scales: { y: { range: (_, __, top) => [0, Math.max(1, top * 1.1)] } },
        axes: [axis, { ...axis, size: 60 }],
        series: [
          {},
          { label: "Errors an hour", stroke: () => color("--bad"), width: 2 },
          { label: "A day before", stroke: () => color("--dim"), dash: [4, 4] }
        ]
      },
      data,
      place
    )
    addEventListener("resize", () => plot?.setSize({ width: width(), height: 180 }))
  }

  const drawErrors = ({ monitor }: Snapshot) => {
    if ("error" in monitor) {
      section("errors", monitor, () => [element("p", { class: "bad" }, `The monitor cannot be read: ${monitor.error}`)])
      return
    }
    const { errors, insights, trends } = monitor
    drawTrend(trends.hours)
    section("errors", [errors.total, errors.recent, insights], () => [
      element(
        "p",
        {},
        `${count(errors.total)} since `,
        time(errors.since),
        `, ${count(errors.recent)} in the last 5 minutes, ${count(errors.retries)} retries, ${
          count(errors.deadLetters)
        } dead letters`
      ),
      insights.groups.length === 0 ? none("No error so far.") : table("Groups of errors", insights.groups, [
        { head: "Severity", cell: ({ severity }) => severity, classOf: ({ severity }) => severity },
        { head: "State", cell: ({ state }) => state },
        { head: "Error", cell: ({ tag }) => tag },
        { head: "Message", cell: ({ message }) => message, kind: "wide" },
        { head: "Count", cell: (group) => count(group.count), kind: "number" },
        { head: "Users", cell: ({ affected }) => count(affected), kind: "number" },
        { head: "First", cell: ({ first }) => time(first) },
        { head: "Last", cell: ({ last }) => time(last) },
        { head: "Advice", cell: ({ recommendation }) => recommendation, kind: "wide" }
      ])
    ])
  }

  const drawAlerts = ({ monitor }: Snapshot) => {
    const alerts = "alerts" in monitor ? monitor.alerts : []
    section("alerts", alerts, () => [
      alerts.length === 0 ? none("None.") : table("Alerts that began or ended, the newest first", alerts, [
        { head: "Time", cell: ({ at }) => time(at) },
        { head: "Rule", cell: ({ rule }) => rule },
        { head: "Level", cell: ({ level }) => level, classOf: ({ level }) => level },
        { head: "Of", cell: ({ label }) => label },
        { head: "State", cell: ({ status }) => status, classOf: ({ status }) => status },
        { head: "Value", cell: ({ value }) => figure(value), kind: "number" }
      ])
    ])
  }

  const drawChannels = (now: Snapshot) => {
    const { channels } = now
    const seconds = before === undefined ? 0 : (now.at - before.at) / 1000
    const rateOf = (each: Snapshot["channels"][number]) => {
      const old = before?.channels.find(({ channel, group, kind }) =>
        channel === each.channel && group === each.group && kind === each.kind
      )
      return seconds <= 0 || old === undefined ? undefined : Math.max(0, each.started - old.started) / seconds
    }
    section("channels", [channels, channels.map(rateOf)], () => [
      channels.length === 0
        ? none("No message so far, or no Metrics or Monitor middleware in the stacks.")
        : table(
          "Channels of this process; times in milliseconds",
          channels,
          [
            { head: "Channel", cell: ({ channel }) => channel },
            { head: "Kind", cell: ({ kind }) => kind },
            { head: "Group", cell: ({ group }) => group },
            { head: "Per second", cell: (each) => figure(rateOf(each)), kind: "number" },
            { head: "Started", cell: ({ started }) => count(started), kind: "number" },
            { head: "In flight", cell: ({ inFlight }) => count(inFlight), kind: "number" },
            {
              head: "Failed",
              cell: ({ failed }) => count(failed),
              kind: "number",
              classOf: ({ failed }) => failed > 0 ? "bad" : ""
            },
            { head: "Retried", cell: ({ retried }) => count(retried), kind: "number" },
            { head: "p50", cell: ({ duration }) => figure(duration.p50), kind: "number" },
            { head: "p95", cell: ({ duration }) => figure(duration.p95), kind: "number" },
            { head: "p99", cell: ({ duration }) => figure(duration.p99), kind: "number" },
            { head: "Longest", cell: ({ duration }) => figure(duration.max), kind: "number" }
          ]
        )
    ])
  }

  const drawHealth = ({ health }: Snapshot) =>
    section("health", health.checks.map(({ at: _, latency: __, ...rest }) => rest), () => [
      health.checks.length === 0 ? none("The program has no checks.") : table("Checks of this process", health.checks, [
        { head: "Check", cell: ({ name }) => name },
        { head: "Status", cell: (check) => check.status, classOf: (check) => check.status },
        { head: "Since", cell: ({ since }) => time(since) },
        {
          head: "Why",
          cell: ({ error, why }) => why ?? (error === undefined ? undefined : error.message ?? error.tag),
          kind: "wide"
        }
      ])
    ])

  const draw = (snapshot: Snapshot) => {
    login.hidden = true
    const { phase, status: overall } = snapshot.health
    status.className = overall
    status.textContent = `${overall}, ${phase}; ${new Date(snapshot.at).toLocaleTimeString()}`
    drawSubscriptions(snapshot)
    drawErrors(snapshot)
    drawAlerts(snapshot)
    drawChannels(snapshot)
    drawHealth(snapshot)
    before = snapshot
  }

  const follow = async () => {
    const reader = (await request("/events")).body!.pipeThrough(new TextDecoderStream()).getReader()
    let text = ""
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      text += value
      const events = text.split("\n\n")
      text = events.pop()!
      for (const event of events) {
        const line = event.split("\n").find((each) => each.startsWith("data: "))
        if (line !== undefined) draw(JSON.parse(line.slice("data: ".length)))
      }
    }
  }

  const again = (run: () => Promise<void>, wait: number) => {
    const turn = () =>
      run().catch((error: unknown) => {
        status.className = "down"
        status.textContent = error instanceof TypeError
          ? "The server does not answer"
          : error instanceof Error
          ? error.message
          : String(error)
      }).then(() => setTimeout(turn, wait))
    void turn()
  }

  login.addEventListener("submit", (event) => {
    event.preventDefault()
    sessionStorage.setItem(keptToken, tokenInput.value)
    tokenInput.value = ""
    byId("login-error").textContent = ""
    login.hidden = true
  })
  again(follow, 1000)
  again(readLetters, 5000)
}
