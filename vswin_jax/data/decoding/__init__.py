"""Frame-accurate decoding of video files with PyAV, and folders of frames."""
