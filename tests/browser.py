"A headless Chromium driven over its DevTools protocol, as a context manager; no driver program is needed"
import json, subprocess, tempfile, time
from pathlib import Path
from shutil import which
from urllib.request import urlopen

from websockets.sync.client import connect

flags = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--remote-debugging-port=0']

def chromium(): return next((p for o in ('chromium', 'chromium-browser', 'google-chrome') if (p := which(o))), None)

def until(f, seconds=20, what='the browser'):
    "Wait for `f` to return something true, and return it"
    end = time.monotonic() + seconds
    while not (res := f()):
        if time.monotonic() > end: raise TimeoutError(f"{what}: nothing after {seconds} s")
        time.sleep(.02)
    return res

class Browser:
    "One tab. `go` opens a page, `js` evaluates, `errors` and `requests` hold what the page said and asked for"
    def __enter__(self):
        self.dir,self.n,self.errors,self.requests,self.loaded = tempfile.TemporaryDirectory(ignore_cleanup_errors=True),0,[],[],False
        self.process = subprocess.Popen([chromium(), *flags, f'--user-data-dir={self.dir.name}', 'about:blank'], stderr=subprocess.DEVNULL)
        port = Path(self.dir.name)/'DevToolsActivePort'
        until(lambda: port.exists() and port.read_text().count('\n'), what='the start of Chromium')
        tabs = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        def tab(): return [o for o in json.load(urlopen(tabs)) if o['type'] == 'page']
        self.connection = connect(until(tab)[0]['webSocketDebuggerUrl'], max_size=None, open_timeout=20)
        self.ws = self.connection.__enter__()
        for domain in ('Page', 'Runtime', 'Log', 'Network'): self.call(f'{domain}.enable')
        return self

    def __exit__(self, *exc):
        self.connection.__exit__(*exc)
        self.process.terminate()
        self.process.wait(10)
        self.dir.cleanup()

    def call(self, method, **params):
        "Send one command and return its result, noting the events that come in between"
        self.n += 1
        self.ws.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while True:
            msg = json.loads(self.ws.recv(timeout=20))
            if msg.get('id') == self.n: break
            self.note(msg)
        if 'error' in msg: raise RuntimeError(f"{method}: {msg['error']}")
        return msg['result']

    def note(self, msg):
        p = msg.get('params', {})
        match msg.get('method'):
            case 'Page.loadEventFired': self.loaded = True
            case 'Network.requestWillBeSent': self.requests.append(p['request']['url'])
            case 'Runtime.exceptionThrown': self.errors.append(p['exceptionDetails'].get('exception', {}).get('description', p['exceptionDetails']['text']))
            case 'Runtime.consoleAPICalled' if p['type'] in ('error', 'assert'): self.errors.append(str(p['args']))
            case 'Log.entryAdded' if p['entry']['level'] == 'error': self.errors.append(p['entry']['text'])

    def go(self, url):
        self.loaded = False
        self.call('Page.navigate', url=url)
        while not self.loaded: self.note(json.loads(self.ws.recv(timeout=20)))

    def js(self, code):
        res = self.call('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)
        if 'exceptionDetails' in res: raise RuntimeError(res['exceptionDetails'])
        return res['result'].get('value')

    def width(self, px): self.call('Emulation.setDeviceMetricsOverride', width=px, height=800, deviceScaleFactor=1, mobile=px < 600)
